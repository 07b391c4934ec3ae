"""What a run leaves behind, written and read. Nothing here needs PyTorch."""
