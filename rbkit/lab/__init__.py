"""The notebook's side: what an operator sees, and what the kernel reports."""
