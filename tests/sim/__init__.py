"""The simulator: the product's own process on fake sockets, under a virtual clock and a seed."""
