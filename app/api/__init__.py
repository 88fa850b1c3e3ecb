"""The only importer of FastAPI: the HTTP API of the control process."""
