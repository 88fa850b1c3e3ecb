"""`python -m examples.model_server --model FILE --port P`: the demo's scikit-learn model server, on its own.

`python -m examples.train` writes a model file for it.
"""

from app.demo.model_server import main

if __name__ == "__main__":
    main()
