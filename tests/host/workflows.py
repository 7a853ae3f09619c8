"""Workflows in the API's format, as dicts of readable node ids, and the clip and mask that they load."""

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # behind ComfyUI, whose `nodes` must win

from toy import captions, scenes  # noqa: E402

CLIP, MASK, MASK_CLIP = "clip.mp4", "mask.png", "masks.mp4"
#: Its lower half and few frames, for what only has to run.
SMALL, SMALL_MASK, HALF = "small.mp4", "small_mask.png", (slice(0, 5), slice(64, 128), slice(0, 128))
MODEL_FILE, VAE_FILE = "kvlock_toy_wan_t2v_fp16.safetensors", "kvlock_toy_wan_vae_fp16.safetensors"
#: The demo's clip, where the lock shows most.
TOLD = scenes.scene("test", 10)
RETOLD = TOLD.recolored("cyan")
STEPS, CFG, SHIFT, SEED = 4, 4.0, 3.0, 7
#: The toy's texts by what they are for.
WORDS = {"source": captions.caption(TOLD), "positive": captions.caption(RETOLD), "negative": ""}


def write_inputs(folder):
    """The source clip, one mask picture for all frames, and a mask clip with a picture for each frame."""
    masks = scenes.edit_mask(TOLD, RETOLD)
    write_clip(folder / CLIP, scenes.render(TOLD))
    write_clip(folder / MASK_CLIP, np.repeat(masks[..., None], 3, -1))
    write_mask(folder / MASK, masks)
    write_clip(folder / SMALL, scenes.render(TOLD)[HALF])
    write_mask(folder / SMALL_MASK, masks[HALF])


def write_mask(path, masks):
    """One picture for all frames."""
    Image.fromarray((masks.max(0) * 255).astype(np.uint8)).convert("RGB").save(path)


def write_clip(path, frames):
    """(F,H,W,3) in [0,1] -> mp4"""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=scenes.FPS, options={"crf": "6"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            pixels = np.ascontiguousarray((frame * 255).round().astype(np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def read_clip(path):
    """mp4 -> (F,H,W,3) uint8"""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def plain(version, *, nonce=0, steps=STEPS, seed=SEED):
    """Text to video at the clip's size, without any node of ours; `nonce` makes the sampler run again."""
    return {
        **loaders(version),
        **texts(nonce),
        "result": node(
            "KSampler", model=["shifted", 0], positive=["positive", 0], negative=["negative", 0], latent_image=["source", 0],
            seed=seed, steps=steps, cfg=CFG, sampler_name="euler", scheduler="simple", denoise=1.0,
        ),
        **savers(["result", 0]),
    }  # fmt: skip


def loaders(version):
    """Model, VAE, and the source clip's latent."""
    return {
        "model": node("UNETLoader", unet_name=MODEL_FILE, weight_dtype="default"),
        "shifted": node("ModelSamplingSD3", model=["model", 0], shift=SHIFT),
        "vae": node(vae_loader(version), vae_name=VAE_FILE),
        "clip": node("LoadVideo", file=CLIP),
        "frames": node("GetVideoComponents", video=["clip", 0]),
        "source": node("VAEEncode", pixels=["frames", 0], vae=["vae", 0]),
    }


def vae_loader(version):
    """The stock loader of 0.3.64 builds every Wan VAE 96 wide and refuses the toy's; 0.8 reads the width."""
    return "VAELoader" if version >= (0, 8, 0) else "KVLockTestVAE"


def texts(nonce):
    return {
        "positive": node("KVLockTestText", prompt=captions.caption(RETOLD), nonce=nonce),
        "negative": node("KVLockTestText", prompt="", nonce=0),
    }


def savers(latent):
    """The result as mp4, and as the exact latent for comparisons. `format.codec` is the name since formats have
    settings of their own, `codec` the one before; each version ignores the other."""
    return {
        "decoded": node("VAEDecode", samples=latent, vae=["vae", 0]),
        "video": node("CreateVideo", images=["decoded", 0], fps=float(scenes.FPS)),
        "saved": node(
            "SaveVideo", video=["video", 0], filename_prefix="kvlock", format="mp4", codec="auto", **{"format.codec": "auto"}
        ),
        "latent": node("SaveLatent", samples=latent, filename_prefix="kvlock"),
    }


def without_video(workflow):
    """The workflow without decoding, which takes far longer than the few steps before it."""
    return {name: made for name, made in workflow.items() if name not in ("decoded", "video", "saved")}


# with our nodes -------------------------------------------------------------------------------------------------------


def filled(info, class_type, **given):
    """A node of ours whose other widgets have their defaults; `info` is the server's /object_info. Released
    widgets are only ever appended, so workflows that name a few stay right."""
    widgets = {**info[class_type]["input"]["required"], **info[class_type]["input"].get("optional", {})}
    defaults = {name: spec[1]["default"] for name, spec in widgets.items() if len(spec) > 1 and "default" in spec[1]}
    unknown = set(given) - set(widgets)
    if unknown:
        raise ValueError(f"{class_type} has no input {', '.join(sorted(unknown))}; it has {', '.join(widgets)}")
    return node(class_type, **{**defaults, **given})


def one_node(version, info, *, nonce=0, steps=STEPS, mask="picture", **widgets):
    """KV-Lock Sampler in the place of KSampler, and its report."""
    return {
        **loaders(version),
        **texts(nonce),
        **source(info, mask),
        "result": filled(
            info, "KVLockSampler", model=["shifted", 0], source=["held", 0], positive=["positive", 0], negative=["negative", 0],
            seed=SEED, steps=steps, cfg=CFG, sampler_name="euler", scheduler="simple", denoise=1.0, **widgets,
        ),
        **report(["result", 1]),
        **savers(["result", 0]),
    }  # fmt: skip


def three_patches(version, info, *, nonce=0, steps=STEPS, mask="clip", **lock):
    """Monitor, lock and CFG schedule, each a node that patches the model, before ComfyUI's own KSampler."""
    workflow = plain(version, nonce=nonce, steps=steps)
    workflow["result"]["inputs"]["model"] = ["guided", 0]
    return {
        **workflow,
        **source(info, mask),
        "watched": filled(info, "KVLockMonitor", model=["shifted", 0], source=["held", 0]),
        "locked": filled(info, "KVLockApply", model=["watched", 0], source=["held", 0], **lock),
        "guided": filled(info, "KVLockCFGSchedule", model=["locked", 0], start_percent=lock.get("start_percent", 0.0)),
        **report(["watched", 1]),
    }


def source(info, mask):
    """The source handle; `mask` is "picture" (one for all frames), "clip" (one a frame) or "short" (too few)."""
    return {
        "told": node("KVLockTestText", prompt=captions.caption(TOLD), nonce=0),
        **masks(mask),
        "held": filled(
            info, "KVLockInvertCache", model=["shifted", 0], source_latent=["source", 0], edit_mask=["mask", 0],
            source_conditioning=["told", 0],
        ),
    }  # fmt: skip


SHORT = 6


def masks(kind):
    if kind == "picture":
        return {"mask": node("LoadImageMask", image=MASK, channel="red")}
    return {
        "mask_clip": node("LoadVideo", file=MASK_CLIP),
        "mask_frames": node("GetVideoComponents", video=["mask_clip", 0]),
        "mask_part": node(
            "ImageFromBatch", image=["mask_frames", 0], batch_index=0, length=SHORT if kind == "short" else scenes.FRAMES
        ),
        "mask": node("ImageToMask", image=["mask_part", 0], channel="red"),
    }


def report(trace):
    return {
        "report": node("KVLockReport", report=trace, latent=["result", 0]),
        "json": node("PreviewAny", source=["report", 4]),
    }


def background_error(clip, part=slice(None)):
    """Mean squared error to the source clip, in [0,1] values, where the edit may not change anything; `part` HALF for a small one."""
    keep = scenes.edit_mask(TOLD, RETOLD)[part].max(0) == 0
    return float(np.square(clip / 255.0 - scenes.render(TOLD)[part])[:, keep].mean())
