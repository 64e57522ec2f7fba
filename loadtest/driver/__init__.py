"""Client processes: the raw driver in C, and a gRPC client; both speak one protocol on stdout."""
