"""KV-Lock on diffusers: the embedded engine, the `demo` and the `edit` command."""
