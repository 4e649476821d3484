"""The whole loop from a checkout: ``python orchestrate.py --config configs/demo.yaml``; installed, ``python -m marca_loop.orchestrate``."""

from marca_loop.orchestrate import main

if __name__ == "__main__":
    main()
