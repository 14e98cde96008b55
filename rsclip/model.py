"""Models: open_clip's factory, our tiny configuration, and checkpoints that plain open_clip opens."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import normalize, scaled_dot_product_attention

from rsclip import adapt, weights
from rsclip.store import replacing
from rsdata.errors import RsdataError

CONFIG, WEIGHTS = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
)  # the names that local-dir: looks for

open_clip.add_model_config(Path(__file__).parent / "models")


class Clip(NamedTuple):
    """A model and what belongs to it.

    transform_eval: PIL image to float32 [3, height, width].
    tokenizer: list of strings to int64 [texts, context length].
    config: open_clip's model configuration, enough to build the model again.
    """

    model: torch.nn.Module
    transform_eval: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    config: dict[str, Any]

    @property
    def preprocess(self) -> dict[str, Any]:
        """open_clip's preprocess_cfg: size, mean, std, interpolation, resize_mode, fill_color."""
        found: dict[str, Any] = self.model.visual.preprocess_cfg  # type: ignore[union-attr, assignment]
        return found


def create(
    name: str, pretrained: str | None = None, quick_gelu: bool | None = None, image_size: int | None = None
) -> Clip:
    """Build a model with float32 weights on the CPU.

    name: "rsclip-tiny", a name of `open_clip.list_models()`, or "local-dir:RUN" for a folder `save` wrote.
    pretrained: a tag of open_clip ("openai"), or a file of weights as `weights.read` takes it.
    quick_gelu: the activation that the weights were trained with. None: as the tag or the configuration says;
        a tag that was trained with QuickGELU gets it, where open_clip 3.x only warns about the mismatch.
    image_size: side of the images in pixels; None: as the configuration says. open_clip interpolates the
        positions of its ViTs.

    Raises RsdataError on an unknown name or tag, on weights that cannot be read or do not fit, and on an
    image size that open_clip cannot build the model with.
    """
    config = _config(name)
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    file = Path(pretrained) if pretrained and not tag else None
    if file and not file.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise RsdataError(f"{pretrained}: neither a file nor a tag of {name}; its tags: {tags}")
    quick = bool(config.get("quick_gelu") or tag.get("quick_gelu")) if quick_gelu is None else quick_gelu
    from_open_clip = file is None
    try:
        with _unwarned():
            model, _, evaluate = open_clip.create_model_and_transforms(
                name,
                pretrained=pretrained if from_open_clip else None,
                load_weights=from_open_clip,
                pretrained_text=from_open_clip,
                require_pretrained=from_open_clip and (bool(tag) or name.startswith("local-dir:")),
                force_quick_gelu=quick,
                quick_gelu=quick,  # to the model's class, as force_quick_gelu cannot force it off
                force_image_size=image_size,
            )
    except Exception as error:  # pickle, zip, safetensors, network and shape errors share no ancestor
        reason = " ".join(str(error).split("\n")[:2]).strip()
        raise RsdataError(f"{pretrained or name}: cannot be loaded as {name}: {reason}") from error
    if image_size and image_size != config["vision_cfg"].get("image_size", 224):
        if hasattr(getattr(model.visual, "trunk", None), "set_input_size"):
            # it would train, but what was saved would not fit what open_clip builds, at timm's size for it
            raise RsdataError(f"{name}: is built only for its own image size, not for {image_size} pixels")
        config["vision_cfg"]["image_size"] = image_size
    if file:
        weights.load_into(model, file, name)
    config["quick_gelu"] = quick
    return Clip(model, evaluate, open_clip.get_tokenizer(name), config)


@contextmanager
def _unwarned() -> Iterator[None]:
    """No warning of open_clip's that weights are random: they are read from a file, or meant to be."""

    def other(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in record.getMessage()

    logging.getLogger().addFilter(other)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(other)


def _config(name: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] | None = open_clip.get_model_config(name)
    except (OSError, ValueError) as error:
        raise RsdataError(
            f"{name.removeprefix('local-dir:')}: not a folder that rsclip wrote: {error}"
        ) from error
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see open_clip.list_models()"
        raise RsdataError(f"{name}: no such model; {hint}")
    return config


def load(checkpoint: Path | str, name: str | None = None, quick_gelu: bool | None = None) -> Clip:
    """Open a run folder, or a checkpoint file or open_clip tag of the model `name`; `quick_gelu` as `create`.

    Raises RsdataError where it cannot be loaded, or `name` is wanted and missing.
    """
    if Path(checkpoint).is_dir():
        return create(f"local-dir:{checkpoint}", quick_gelu=quick_gelu)
    if name is None:
        raise RsdataError(f"{checkpoint}: name the model that these weights belong to with --model")
    return create(name, str(checkpoint), quick_gelu)


def save(folder: Path, clip: Clip) -> None:
    """Write `folder` so that `open_clip.create_model_and_transforms("local-dir:FOLDER")` opens it.

    Adapters of `adapt.add_lora` are merged into the weights written, and stay apart in `clip`.
    """
    preprocess = {k: v for k, v in clip.preprocess.items() if k not in ("size", "mode")}
    with replacing(folder / CONFIG) as path:
        path.write_text(json.dumps({"model_cfg": clip.config, "preprocess_cfg": preprocess}, indent=2) + "\n")
    if hasattr(clip.tokenizer, "save_pretrained"):
        clip.tokenizer.save_pretrained(folder)
    with replacing(folder / WEIGHTS) as path:
        plain = adapt.plain_state(clip.model)
        save_file({name: tensor.contiguous() for name, tensor in plain.items()}, path)
        path.chmod(0o644)  # safetensors writes files that only their owner can read


def device(name: str | None) -> torch.device:
    """The device called `name`, or without a name CUDA where there is one, else the CPU.

    Raises RsdataError where this machine, or this torch, has no such device.
    """
    try:
        found = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        raise RsdataError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return found


def text_prefix(model: torch.nn.Module) -> str | None:
    """Where a causal text tower pooled at its end token keeps its positions; None for any other tower.

    In such a tower no token sees what stands after it, so what stands after the end token changes nothing.
    """
    flat = isinstance(model, open_clip.CLIP)  # the class that keeps the text tower's parts as its own
    tower = model if flat else getattr(model, "text", None)
    pool = getattr(tower, "text_pool_type" if flat else "pool_type", None)
    causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    if not causal or pool != "argmax":
        return None
    return "" if flat else "text."


def tokenise(
    texts: list[str], tokenizer: Callable[[list[str]], Tensor], trim: bool, multiple: int = 1
) -> Tensor:
    """int64 [texts, length]; with `trim`, length is that of the longest text and not the model's context.

    multiple: that length is rounded up to a multiple of it.
    """
    tokens = tokenizer(texts)
    if not trim:
        return tokens
    longest = int(tokens.argmax(dim=-1).max()) + 1
    return tokens[:, : -(-longest // multiple) * multiple]


def encode_image(model: torch.nn.Module, images: Tensor) -> Tensor:
    """float [images, dim], L2-normalised."""
    features: Tensor = model.encode_image(images, normalize=True)  # type: ignore[operator]
    return features


def image_features(model: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features before the projection and after it.

    Float [images, width], as they come, and float [images, dim], L2-normalised. The first are those of the
    paper's linear probe and k-NN. A tower of open_clip without a projection of its own (CoCa) gives its
    output as both.
    """
    visual: Any = model.visual
    if isinstance(visual, VisionTransformer) and visual.proj is not None and not visual.output_tokens:
        with _replaced(visual, "proj", None):
            tower = visual(images)
        joint = tower @ visual.proj
    elif isinstance(visual, ModifiedResNet):
        with _replaced(visual, "attnpool", torch.nn.Identity()):
            grid = visual(images)
        tower = _pooled(visual.attnpool, grid)
        joint = visual.attnpool.c_proj(tower)
    elif hasattr(visual, "trunk"):
        tower = visual.trunk(images)
        joint = visual.head(tower)
    else:
        tower = joint = model.encode_image(images)  # type: ignore[operator]
    return tower if tower.ndim == 2 else joint, normalize(joint, dim=-1)


def _pooled(pool: Any, grid: Tensor) -> Tensor:
    """What open_clip's attention pool hands to its c_proj: float [images, width] of a [images, width, h, w].

    Of the mean token alone: the pool itself works out all, and then drops all but that.
    """
    tokens = grid.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + pool.positional_embedding.to(grid.dtype)

    def heads(projected: Tensor) -> Tensor:
        return projected.reshape(len(grid), -1, pool.num_heads, grid.shape[1] // pool.num_heads).transpose(
            1, 2
        )

    query, key, value = (
        heads(layer(each))
        for layer, each in ((pool.q_proj, tokens[:, :1]), (pool.k_proj, tokens), (pool.v_proj, tokens))
    )
    return scaled_dot_product_attention(query, key, value).flatten(1)


@contextmanager
def _replaced(module: torch.nn.Module, name: str, value: Any) -> Iterator[None]:
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


def encode_text(model: torch.nn.Module, tokens: Tensor, normalised: bool = True) -> Tensor:
    """float [texts, dim], of tokens [texts, length] that `tokenise` may have trimmed; L2-normalised, or not.

    Positions and mask are cut to the length at hand. (open_clip's `force_context_length` interpolates the
    positions instead, which changes the model.)
    """
    prefix, length = text_prefix(model), tokens.shape[1]
    text = _Text(model, normalised)
    features: Tensor
    if prefix is None or length == model.context_length:
        features = text(tokens)
        return features
    positions, mask = f"{prefix}positional_embedding", f"{prefix}attn_mask"
    cut = {
        f"clip.{positions}": model.get_parameter(positions)[:length],
        f"clip.{mask}": model.get_buffer(mask)[:length, :length],
    }
    features = functional_call(text, cut, (tokens,))
    return features


class _Text(torch.nn.Module):
    """The text tower of a model as a module, which is what `functional_call` takes."""

    def __init__(self, clip: torch.nn.Module, normalised: bool) -> None:
        super().__init__()
        self.clip, self.normalised = clip, normalised

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.clip.encode_text(tokens, normalize=self.normalised)  # type: ignore[operator]
        return features
