"""What is measured: each file is a part with `measure(scale)`, which runs in a process of its own."""
