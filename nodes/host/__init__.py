"""The only rooms that name ComfyUI's internals; docs/hosts.md says how such a folder is written."""
