"""Streams of random numbers: each draw has a seed of its own, derived from the run's seed and a name."""

from hashlib import blake2b


def stream(seed: int, *names: object) -> int:
    """The seed (63 bits) of whatever draws by this name: no draw by another name moves it, nor is moved by it.

    `random.Random` takes such names as they are (`Random(f"gem/{seed}/{round}")`); PyTorch's generators take numbers.
    """
    digest = blake2b("/".join(map(str, (seed, *names))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
