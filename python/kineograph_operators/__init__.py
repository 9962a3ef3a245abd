"""Makes torch know kineograph's operators in every process, so that exported programs and AOTInductor packages open
without an import of it. torch calls `declare` at the end of its own import (the entry points of `torch.backends`)."""


def declare() -> None:
    # An error here would be one of `import torch`. kineograph says what it lacks where it is imported itself.
    try:
        import kineograph.operators  # noqa: F401
    except Exception:
        return
