"""Models, their loss, and the engines that train them on one device or many."""
