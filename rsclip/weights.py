"""Files of weights as users have them, read without running any code of theirs, into open_clip's models.

torch.jit.load is no way to read a TorchScript archive: its modules restore themselves by methods of their
own, which can write files. Here only the pickle of its attributes is read, and of that only tensors.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from safetensors.torch import load_file
from torch import Tensor

from rsdata.errors import RsdataError

_NESTS = ("state_dict", "model")
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of DistributedDataParallel and of torch.compile
_ITRA = {"image_backbone.": "visual.", "text_backbone.": ""}  # RemoteCLIP's trainer; its ItraModel
_OPENAI = ("input_resolution", "context_length", "vocab_size")  # numbers among the tensors of its archives
_BUFFERS = ("attn_mask", "position_ids")  # once saved, now computed
_TOWERS = ("visual.", "image_encoder.")  # open_clip's, and MobileCLIP's, which open_clip converts


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a CLIP model by open_clip's names, with the dtypes they are stored in, on the CPU.

    path: safetensors; a torch file of a state dict, of {"state_dict": …} or of {"model": …}, as open_clip,
        RemoteCLIP and its trainer ITRA, GeoRSCLIP and SkyCLIP have them; or a TorchScript archive, as
        OpenAI's. What the file is, its content says and not its name.

    Raises RsdataError where the file cannot be read, holds pickled code, no tensors, or no CLIP's.
    """
    content = _load(path)
    nests = [content[key] for key in _NESTS if isinstance(content.get(key), Mapping)]
    state = {
        _open_clip_name(name): tensor
        for name, tensor in (nests or [content])[0].items()
        if isinstance(tensor, Tensor) and isinstance(name, str) and name not in _OPENAI
    }
    if not state:
        raise RsdataError(f"{path}: cannot be loaded: no state dict, there are no named tensors in it")
    if not any(name.startswith(_TOWERS) for name in state):
        raise RsdataError(f"{path}: cannot be loaded: not a CLIP model in open_clip's names; {_few(state)}")
    return state


def load_into(model: torch.nn.Module, path: Path, name: str) -> None:
    """Put the weights of the file `path` into `model`, which open_clip built as `name`.

    As open_clip's `load_checkpoint` does: other layouts of the text tower are converted, positions are
    interpolated to the image size and the context of the model, and a missing logit_bias is zero.
    Raises RsdataError where they do not fit, with the model that they would fit if it is one of open_clip's.
    """
    own = model.state_dict()
    state = {key: t.float() if t.is_floating_point() else t for key, t in read(path).items()}
    like = _looks_like(state, own)
    state = _converted(state, model, own)
    missing = [key for key in own.keys() - state.keys() if not key.endswith("num_batches_tracked")]
    unknown = state.keys() - own.keys()
    shapes = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    found = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    faults = [f"{what}: {_few(keys)}" for what, keys in found.items() if keys]
    if faults:
        raise RsdataError(f"{path}: cannot be loaded as {name}: {like}{'; '.join(faults)}")
    model.load_state_dict(state, strict=False)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise RsdataError(f"{path}: cannot be loaded: {error.strerror}") from error
    try:
        if head[8:] == b"{":  # safetensors: eight bytes of length, then JSON
            return load_file(path)
        if _is_torchscript(path):
            return _attributes(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, safetensors and torch errors share no ancestor
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            why = f"it holds pickled code ({code[1]}), which is never run"
        else:
            said = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
            why = f"neither safetensors nor a torch file, or damaged ({type(error).__name__}: {said})"
        raise RsdataError(f"{path}: cannot be loaded: {why}") from error
    return content if isinstance(content, Mapping) else {}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


class _Object:
    """A module of a TorchScript archive: its attributes, and none of its code."""


class _Unpickler(pickle.Unpickler):
    """Makes tensors, containers and _Objects; anything else is refused."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        """What a global of the pickle stands for. Raises UnpicklingError."""
        if module.startswith("__torch__"):
            return type(name, (_Object,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, saved: Any) -> Tensor:
        """The numbers of a storage, of which tensors are parts."""
        _, dtype, key, _, count = saved
        data = bytearray(self._archive.read(f"{self._folder}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


_STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _attributes(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by their names, as state_dict has them."""
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = _Unpickler(archive, pickled.removesuffix("/data.pkl")).load()
    found: dict[str, Tensor] = {}
    left, seen = [("", root)], set[int]()
    while left:
        prefix, module = left.pop()
        if id(module) in seen:  # else a module that holds itself would never end
            continue
        seen.add(id(module))
        for name, value in vars(module).items() if isinstance(module, _Object) else ():
            if isinstance(value, Tensor):
                found[prefix + name] = value
            elif isinstance(value, _Object):
                left.append((f"{prefix}{name}.", value))
    return found


def _open_clip_name(name: str) -> str:
    name = _WRAPPERS.sub("", name)
    for theirs, ours in _ITRA.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _converted(
    state: dict[str, Tensor], model: torch.nn.Module, own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    # Each step takes the weights to be of the right size; where they are not, the caller says what differs.
    with suppress(AssertionError, AttributeError, KeyError, RuntimeError):
        state = convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
    for key in ("logit_scale", "logit_bias"):
        if key in own and key in state and state[key].numel() == own[key].numel():
            state[key] = state[key].reshape(own[key].shape)
    if "logit_bias" in own:
        state.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
    return {key: t for key, t in state.items() if key in own or key.rpartition(".")[2] not in _BUFFERS}


def _few(names: Collection[str], most: int = 3) -> str:
    shown = ", ".join(sorted(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _looks_like(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """A remark on which of open_clip's models `state` is of; empty if it is of `own`'s, or not recognised."""
    build = _build_of_state(state)
    if build is None or build == _build_of_state(own):
        return ""
    named = {name: _build_of_config(open_clip.get_model_config(name)) for name in open_clip.list_models()}
    fitting = [name for name, other in named.items() if other == build]
    return f"these are weights of a {min(fitting, key=len)}; " if fitting else ""


def _build_of_state(state: Mapping[str, Tensor]) -> tuple[Any, ...] | None:
    """Layers, width and patch of a native image tower, layers and width of the text tower, joint width."""
    text = "text." if "text.token_embedding.weight" in state else ""
    wanted = ("visual.conv1.weight", f"{text}token_embedding.weight", f"{text}text_projection")
    if not all(key in state for key in wanted):
        return None
    conv, words, projection = (state[key] for key in wanted)

    def layers(prefix: str) -> int:
        return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})

    vision: tuple[Any, ...] = (layers("visual.transformer.resblocks."), conv.shape[0], conv.shape[-1])
    if "visual.layer1.0.conv1.weight" in state:
        stages = [layers(f"visual.layer{stage}.") for stage in range(1, 5)]
        vision = (stages, state["visual.layer1.0.conv1.weight"].shape[0], None)
    return *vision, layers(f"{text}transformer.resblocks."), words.shape[1], projection.shape[-1]


def _build_of_config(config: Mapping[str, Any]) -> tuple[Any, ...] | None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text:
        return None
    layers = vision.get("layers", 12)
    patch = None if isinstance(layers, list) else vision.get("patch_size", 16)
    tower = (layers, vision.get("width", 768), patch)  # defaults of open_clip's CLIPVisionCfg, CLIPTextCfg
    return *tower, text.get("layers", 12), text.get("width", 512), config["embed_dim"]
