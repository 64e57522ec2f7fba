"""A realistic network and its shoppers, generated from real geography, driven over gRPC."""
