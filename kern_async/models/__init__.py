"""Models of providers: messages and tools in, deltas and a reply out."""
