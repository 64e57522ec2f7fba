"""The front door: decode, call a use case, encode. No rule of the trade."""
