"""Half-Reset: half of a fine-tuned model back to what it was: `python -m trace_cl.reset FINETUNED BASE OUT`.

The experiment that HFT grew out of (arXiv 2404.18466, section 2): after fine-tuning, half of the matrices are given the
values that they had before, and much of what was forgotten is known again. What goes back is what HFT with this
selection and seed would have frozen in its first round.

No weight is loaded. A file of weights is copied as it is, then the bytes of what goes back are written over, a piece at
a time; so the sharding stays, and what is needed of memory does not depend on the model.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trace_cl.choices import compose
from trace_cl.config import as_dict, check
from trace_cl.doors import leave
from trace_cl.errors import UserError
from trace_cl.records.files import as_json, guard, sync, sync_all, write
from trace_cl.strategies.base import Unsuitable, shape_of
from trace_cl.strategies.hft import parameters_of, select
from trace_cl.strategies.layers import decoder_layers, trainable_share
from trace_cl.strategies.selection import Selection
from trace_cl.training.folder import (
    INDEX,
    KNOWN_BUFFERS,
    StoredTensor,
    build_on_meta,
    check_folder,
    read_config,
    stored_tensors,
    weight_files,
)
from trace_cl.training.model import count

SELECTIONS = ("category", "model", "layer")

RECORD = "half_reset.json"
"""The file beside the weights that says what was reset."""

BESIDE = (
    *("config.json", "generation_config.json", INDEX),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.jinja"),
)
"""What else makes a model's folder whole."""

ALIKE = ("model_type", "num_attention_heads", "num_key_value_heads", "tie_word_embeddings")
"""What of a configuration must be the same, for matrices of the same shapes to mean the same."""

BUFFERS = re.compile(rf"{KNOWN_BUFFERS.pattern}|rotary_emb\.inv_freq$")
"""What earlier versions of transformers wrote beside the weights, as in Llama-2's files."""

AT_ONCE = 2**24
"""Bytes."""

MEND = "take two checkpoints of one model"


def half_reset(finetuned: Path, base: Path, out: Path, selection: Selection, seed: int) -> dict[str, Any]:
    """Write the fine-tuned model to `out` with half of its matrices as they are in `base`; gives what `RECORD` holds.

    The folders are in Hugging Face layout, with safetensors. Raises UserError where the two do not match, tensor by
    tensor, or `out` is there already and not empty.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already, and not an empty folder: name one that is not there yet")
    ours, theirs = _tensors(finetuned), _tensors(base)
    model = _described(finetuned, base)
    _check_alike(ours, theirs, finetuned, base, model)
    try:
        modules = select(model, 1, seed, selection)
    except Unsuitable as error:
        raise UserError(f"{finetuned}: {str(error).removesuffix(': set hft=false')}") from error
    names = sorted(parameters_of(model, modules))
    model.requires_grad_(False)
    for name in names:
        model.get_parameter(name).requires_grad_(True)  # which is how parameters are counted here
    every = set(model.parameters())
    record = {
        "finetuned": str(finetuned.resolve()),
        "base": str(base.resolve()),
        "selection": vars(selection),
        "seed": seed,
        "share_of_matrices": trainable_share(model),
        "parameters_reset": count(every, trainable=True),
        "parameters": count(every),
        "modules": modules,
        "tensors": names,
    }
    with _whole(out.resolve()) as draft:
        for path in (*weight_files(finetuned), *_beside(finetuned)):
            shutil.copyfile(path, draft / path.name)
            for name in names:
                if ours[name].file == path:
                    _overwrite(draft / path.name, ours[name], theirs[name])
        write(draft / RECORD, as_json(record))
    return record


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model's folder but old buffers, by name. Raises UserError where it holds no whole model."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json): name a folder in Hugging Face layout")
    check_folder(folder)
    return {name: tensor for name, tensor in stored_tensors(folder).items() if not BUFFERS.search(name)}


def _described(finetuned: Path, base: Path) -> PreTrainedModel:
    """The model, without weights, that both folders' configurations describe. Raises UserError where they differ."""
    ours, theirs = (read_config(folder) for folder in (finetuned, base))
    for key in ALIKE:
        if (here := getattr(ours, key, None)) != (there := getattr(theirs, key, None)):
            raise UserError(
                f"{base / 'config.json'} has {key}={there}, and {finetuned / 'config.json'} {key}={here}: {MEND}"
            )
    return build_on_meta(ours)


def _check_alike(
    ours: Mapping[str, StoredTensor],
    theirs: Mapping[str, StoredTensor],
    finetuned: Path,
    base: Path,
    model: PreTrainedModel,
) -> None:
    """Raise UserError naming file and tensor, unless both folders hold the same, and of the layers all there is.

    Outside the layers files may name tensors otherwise than the model does: nothing there is touched.
    """
    shapes = {name: shape_of(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    tied = shapes.keys() - dict(model.named_parameters()).keys()  # may stand in one file, in both, or in none
    for here, there, folder in ((ours, theirs, base), (theirs, ours, finetuned)):
        for name in sorted(here.keys() - there.keys() - tied):
            raise UserError(f"{here[name].file} holds {name}, which {folder} lacks: {MEND}")
    for name in sorted(ours.keys() & theirs.keys()):
        if _form(ours[name]) != _form(theirs[name]):
            same = ours[name].shape == theirs[name].shape
            raise UserError(
                f"{theirs[name].file} holds {name} as {_form(theirs[name])}, and {ours[name].file} as "
                f"{_form(ours[name])}: {'save one of the two in the type of the other first' if same else MEND}"
            )
    inside = tuple(f"{path}." for path in decoder_layers(model))
    for name, shape in shapes.items():
        if name not in ours and name.startswith(inside):
            raise UserError(
                f"{finetuned} lacks {name}, which {type(model).__name__} has: fetch it again (a mixture of "
                "experts, whose files name its tensors otherwise, cannot be reset)"
            )
        if name in ours and ours[name].shape != tuple(shape):
            raise UserError(
                f"{ours[name].file} holds {name} as {_form(ours[name])}, and {finetuned / 'config.json'} asks for "
                f"{' × '.join(map(str, shape))}: {MEND}"
            )


def _form(tensor: StoredTensor) -> str:
    return f"{' × '.join(map(str, tensor.shape))} of {tensor.dtype}"


def _beside(folder: Path) -> Iterable[Path]:
    """Configuration and tokenizer."""
    return sorted({path for pattern in BESIDE for path in folder.glob(pattern) if path.is_file()})


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, which stands at its place once it is full; where that fails, nothing does."""
    draft = folder.with_name(f"{folder.name}.tmp")
    with guard(folder):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
            sync_all(draft)
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync(folder.parent)


def _overwrite(copy: Path, place: StoredTensor, source: StoredTensor) -> None:
    """Put a tensor in another's place, in the copy of its file; they take as many bytes."""
    with copy.open("r+b") as target, source.file.open("rb") as file:
        target.seek(place.begin)
        file.seek(source.begin)
        for begin in range(source.begin, source.end, AT_ONCE):
            target.write(file.read(min(AT_ONCE, source.end - begin)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m trace_cl.reset", description="Half of a fine-tuned model's matrices back to the base's values."
    )
    parser.add_argument("finetuned", metavar="FINETUNED", type=Path, help="the fine-tuned model's folder")
    parser.add_argument("base", metavar="BASE", type=Path, help="the folder of the model that it was made of")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write, which must not be there yet")
    parser.add_argument("--selection", choices=SELECTIONS, default="category", help="how the half is chosen (category)")
    parser.add_argument("--seed", default="1", help="of what is drawn (1)")
    options = parser.parse_args(arguments)
    try:
        config = compose([f"selection={options.selection}", f"seed={options.seed}"])
        check(config)
        selection = Selection(**as_dict(config.selection))
        record = half_reset(options.finetuned, options.base, options.out, selection, config.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.out}: {record['share_of_matrices']:.2%} of the matrices in the layers are as in {options.base} "
        f"({record['parameters_reset']:,} of {record['parameters']:,} parameters; which, {RECORD} says)"
    )
    return 0


if __name__ == "__main__":
    leave(main)
