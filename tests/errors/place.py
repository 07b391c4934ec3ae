"""Where one mistake is made: a model, a benchmark and a folder for runs, all whole but for it."""

import errno
import fcntl
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM


@dataclass
class Place:
    """`model`, `root` and `runs` are the trial's own; `patch` is undone after it."""

    model: Path
    root: Path
    runs: Path
    patch: pytest.MonkeyPatch

    @property
    def arguments(self) -> list[str]:
        """What makes a run here that nothing is wrong with."""
        return [
            "benchmark=trace",
            f"benchmark.root={self.root}",
            "benchmark.order=[C-STANCE,FOMC]",
            "benchmark.tasks.C-STANCE.epochs=1",
            "benchmark.tasks.FOMC.epochs=1",
            "benchmark.max_test=2",
            "evaluation.zero_shot=false",
            f"model.path={self.model}",
            f"runs_dir={self.runs}",
        ]

    def told(self, sentence: str) -> str:
        """The sentence with words in the place of this trial's folders."""
        folders = {"RUN": self.run, "RUNS": self.runs, "MODEL": self.model, "ROOT": self.root, "HERE": Path.cwd()}
        for name, folder in folders.items():
            sentence = sentence.replace(str(folder or name), name)
        return re.sub(r"x{50,}", "xxx…", sentence)

    @property
    def run(self) -> Path | None:
        """The directory of the run that lies in `runs`, if there is one."""
        return next((config.parent for config in self.runs.rglob("config.yaml")), None)

    def in_run(self, *names: str) -> Path:
        """A file of that run."""
        assert self.run is not None
        return self.run.joinpath(*names)

    def configure(self, folder: Path | None = None, /, **sizes: object) -> None:
        """Change the config.json of the model, or of another folder; None takes a key out."""
        self.change((folder or self.model) / "config.json", lambda content: content.update(sizes))

    def change(self, path: Path, change: Callable[[Any], object]) -> None:
        """Change a JSON file; what is None goes."""
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    def reweigh(self, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], folder: Path | None = None) -> None:
        """Change the weights of the model, or of another folder."""
        file = (folder or self.model) / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    def shard(self, index: str | None = None) -> list[Path]:
        """Put the model's weights into several files, and into their index what is given; gives the files."""
        AutoModelForCausalLM.from_pretrained(self.model).save_pretrained(self.model, max_shard_size="50KB")
        self.remove(self.model / "model.safetensors")
        if index is not None:
            (self.model / "model.safetensors.index.json").write_text(index)
        return sorted(self.model.glob("*.safetensors"))

    def rows(self, rows: object) -> None:
        """What FOMC's train.json holds: a text as it stands, anything else as JSON."""
        text = rows if isinstance(rows, str) else json.dumps(rows)
        (self.root / "FOMC" / "train.json").write_text(text)

    def labelled(self, rows: object) -> None:
        """Let the root hold FOMC in O-LoRA's layout too, with these rows in its train.json."""
        folder = self.root / "NLI" / "FOMC"
        folder.mkdir(parents=True)
        (folder / "train.json").write_text(json.dumps(rows))
        (folder / "labels.json").write_text('["yes", "no"]')

    def reword(self, path: Path, old: str, new: str) -> None:
        """Change a word in a file."""
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def replace(self, path: Path, content: str | bytes | None = None) -> None:
        """Put a file in the place of a file or folder; without content, a folder."""
        self.remove(path)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def remove(self, *paths: Path) -> None:
        """Let files or folders be gone."""
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def link_runs(self) -> None:
        """Let `runs` be a link that leads nowhere."""
        self.remove(self.runs)
        self.runs.symlink_to("nowhere")

    def gpus(self, count: int) -> None:
        """Let the machine have so many GPUs."""
        self.patch.setattr("torch.cuda.is_available", lambda: count > 0)
        self.patch.setattr("torch.cuda.device_count", lambda: count)

    def hold(self) -> None:
        """Let another process be at the run."""
        self.held = self.in_run(".lock").open("a")
        fcntl.flock(self.held, fcntl.LOCK_EX)

    def lockless(self) -> None:
        """Let the file system have no locks."""

        def refused(*arguments: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        self.patch.setattr("fcntl.flock", refused)

    def offline(self) -> None:
        """Let the hub be nowhere."""
        self.patch.setattr("trace_cl.training.model.ENDPOINT", "http://127.0.0.1:9")

    def without(self, module: str) -> None:
        """Let a module be missing."""
        self.patch.setitem(sys.modules, module, None)
