"""`python -m app` is `model-gateway`."""

from app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
