"""What is read out of stored runs. Nothing here needs PyTorch."""
