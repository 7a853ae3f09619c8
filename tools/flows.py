"""The example workflows: what is linked to what, and what a note says. `python tools/make.py workflows` writes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graph import BAD, BLUE, GOOD, GREEN, ORANGE, Graph, Node, Out
from notes import NOTES

_WAN21 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
_WAN22 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
_KIJAI = "https://huggingface.co/Kijai/WanVideo_comfy/resolve/main"
T2V_SMALL, T2V_LARGE = "wan2.1_t2v_1.3B_fp16.safetensors", "wan2.1_t2v_14B_fp8_scaled.safetensors"
VACE = "wan2.1_vace_1.3B_fp16.safetensors"
HIGH, LOW = (f"wan2.2_t2v_{part}_noise_14B_fp8_scaled.safetensors" for part in ("high", "low"))
TEXT, VAE = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors"
LORA = "lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16.safetensors"
#: File -> where the page offers to fetch it, and the folder of models/ it belongs to.
MODELS = {
    T2V_SMALL: (f"{_WAN21}/diffusion_models/{T2V_SMALL}", "diffusion_models"),
    T2V_LARGE: (f"{_WAN21}/diffusion_models/{T2V_LARGE}", "diffusion_models"),
    VACE: (f"{_WAN21}/diffusion_models/{VACE}", "diffusion_models"),
    HIGH: (f"{_WAN22}/diffusion_models/{HIGH}", "diffusion_models"),
    LOW: (f"{_WAN22}/diffusion_models/{LOW}", "diffusion_models"),
    TEXT: (f"{_WAN21}/text_encoders/{TEXT}", "text_encoders"),
    VAE: (f"{_WAN21}/vae/{VAE}", "vae"),
    LORA: (f"{_KIJAI}/Lightx2v/{LORA}", "loras"),
}
CLIP_FILE, MASK_FILE = "clip.mp4", "mask.png"
SOURCE_TEXT = "A close-up of a tabby cat with green eyes looking into the camera, soft daylight, shallow depth of field."
EDIT_TEXT = SOURCE_TEXT.replace("green", "bright blue")
NEGATIVE_TEXT = "blurry, low quality, flicker, washed-out colours, watermark, text"
NARROW, WIDE = 330, 350
SEED = 42


@dataclass(frozen=True)
class Start:
    """What every workflow begins with: model, clip, mask and words."""

    model: Out
    vae: Out
    frames: Node
    mask: Out
    latent: Out
    told: Out
    positive: Out
    negative: Out


def edit_one_thing(g: Graph) -> None:
    start = _start(g, _models(g, T2V_SMALL), NOTES["one"], 430)
    held = _held(g, "6  What is held", start)
    g.group("7  Edit", ORANGE)
    edit = g.add("KVLockSampler", model=start.model, source=held["source"], positive=start.positive, negative=start.negative, seed=SEED, cfg=6.0)
    _result(g, "8  Result", edit["latent"], start, edit["report"])


#: Of KV-Lock (Patch Model) where the latent of Invert & Cache KV keeps the background: as KV-Lock Sampler has it.
BESIDE_COMPOSITE = {"lock_schedule": "risk", "end_percent": 0.6, "alpha_ceiling": 0.5, "tau": 16.0}


def patch_nodes(g: Graph) -> None:
    start = _start(g, _models(g, T2V_SMALL), NOTES["patch"], 470)
    held = _held(g, "6  What is held", start)
    g.group("7  Patches, in any order", ORANGE)
    locked = g.add("KVLockApply", model=start.model, source=held["source"], **BESIDE_COMPOSITE)
    guided = g.add("KVLockCFGSchedule", model=locked["model"], omega_ceiling=1.25, end_percent=0.6, tau=16.0, use_s_star=False)
    watched = g.add("KVLockMonitor", model=guided["model"], source=held["source"])
    g.column(WIDE)
    g.group("8  Edit, with ComfyUI's own sampler", ORANGE)
    edit = _ksampler(g, watched["model"], start, held["latent"])
    _result(g, "9  Result", edit["LATENT"], start, watched["report"])


def vace(g: Graph) -> None:
    start = _start(g, _models(g, VACE), NOTES["vace"], 470, snap=True)
    g.column(WIDE)
    g.group("6  What VACE is shown", GREEN)
    images = start.frames["images"]
    size = g.add("GetImageSize", image=images)
    shown = {"vae": start.vae, "width": size["width"], "height": size["height"], "length": size["batch_size"]}
    shown |= {"control_video": images, "control_masks": start.mask, "negative": start.negative}
    edit_text = g.add("WanVaceToVideo", "VACE: the edit", positive=start.positive, **shown)
    source_text = g.add("WanVaceToVideo", "VACE: the source", positive=start.told, **shown)
    held = _held(g, "7  What is held", replace(start, told=source_text["positive"]))
    g.group("8  Edit", ORANGE)
    edit = g.add("KVLockSampler", model=start.model, source=held["source"], positive=edit_text["positive"],
                 negative=edit_text["negative"], seed=SEED, cfg=6.0)  # fmt: skip
    _result(g, "9  Result", edit["latent"], start, edit["report"])


def two_experts(g: Graph) -> None:
    g.column(360)
    g.group("1  Models", BLUE)
    high = g.add("UNETLoader", "High noise expert", unet_name=HIGH)
    low = g.add("UNETLoader", "Low noise expert", unet_name=LOW)
    clip, vae = _text_and_vae(g)
    high, low = (g.add("ModelSamplingSD3", f"Shift, {n} noise", model=m["MODEL"], shift=8.0)["MODEL"] for n, m in (("high", high), ("low", low)))
    start = _start(g, (high, clip, vae), NOTES["experts"], 500)
    held = _held(g, "6  What is held, for both experts", start)
    g.group("7  Locks: one for each expert", ORANGE)
    watched = []
    for name, model in (("high noise", high), ("low noise", low)):
        locked = g.add("KVLockApply", f"KV-Lock, {name}", model=model, source=held["source"], **BESIDE_COMPOSITE)
        watched.append(g.add("KVLockMonitor", f"Monitor, {name}", model=locked["model"], source=held["source"]))
    g.column(WIDE)
    first, second = _two_stages(g, watched, start, held["latent"])
    g.group("9  What the high noise expert did", BLUE)
    g.add("KVLockReport", report=watched[0]["report"], latent=first)
    _result(g, "10  Result", second, start, watched[1]["report"])


def _two_stages(g: Graph, watched: list[Node], start: Start, latent: Out) -> tuple[Out, Out]:
    common = {"positive": start.positive, "negative": start.negative, "noise_seed": SEED, "steps": 20, "cfg": 3.5, "sampler_name": "euler"}
    g.group("8  Edit: high noise, then low noise", ORANGE)
    first = g.add("KSamplerAdvanced", "1st half: high noise", model=watched[0]["model"], latent_image=latent, end_at_step=10,
                  return_with_leftover_noise="enable", **common)  # fmt: skip
    second = g.add("KSamplerAdvanced", "2nd half: low noise", model=watched[1]["model"], latent_image=first["LATENT"], add_noise="disable",
                   start_at_step=10, **common)  # fmt: skip
    return first["LATENT"], second["LATENT"]


def four_steps(g: Graph) -> None:
    start = _start(g, _models(g, T2V_LARGE, shift=5.0, lora=LORA), NOTES["four"], 470)
    held = _held(g, "6  What is held", start)
    g.group("7  Edit in 4 steps", ORANGE)
    edit = g.add("KVLockSampler", model=start.model, source=held["source"], positive=start.positive, negative=start.negative, seed=SEED,
                 steps=4, cfg=1.0, sampler_name="lcm", lock_schedule="constant")  # fmt: skip
    _result(g, "8  Result", edit["latent"], start, edit["report"])


def compare(g: Graph) -> None:
    start = _start(g, _models(g, T2V_SMALL), NOTES["compare"], 470)
    held = _held(g, "6  What is held", start)
    g.group("7  A: no lock, only watched", BLUE)
    watched = g.add("KVLockMonitor", model=start.model, source=held["source"])
    free = _ksampler(g, watched["model"], start, start.latent)
    common = {"model": start.model, "source": held["source"], "positive": start.positive, "negative": start.negative, "seed": SEED, "cfg": 6.0}
    g.column(WIDE)
    g.group("8  B: fixed lock, no composite", ORANGE)
    fixed = g.add("KVLockSampler", "Fixed lock", keep_background=False, lock_schedule="constant", alpha_ceiling=1.0, end_percent=1.0, **common)
    g.column(WIDE)
    g.group("9  C: KV-Lock as installed", ORANGE)
    ours = g.add("KVLockSampler", "KV-Lock", **common)
    runs = [("A", free["LATENT"], watched["report"]), ("B", fixed["latent"], fixed["report"]), ("C", ours["latent"], ours["report"])]
    g.column(NARROW)
    g.group("10  What each did", BLUE)
    for name, made, report in runs:
        g.add("KVLockReport", f"Report {name}", report=report, latent=made)
    g.column(NARROW)
    _side_by_side(g, [made for _, made, _ in runs], start)


def _side_by_side(g: Graph, latents: list[Out], start: Start) -> None:
    g.group("11  Source, A, B, C in one clip", BLUE)
    strip = start.frames["images"]
    for name, latent in zip("ABC", latents):
        decoded = g.add("VAEDecode", f"Decode {name}", samples=latent, vae=start.vae)
        strip = g.add("ImageStitch", f"... beside {name}", image1=strip, image2=decoded["IMAGE"], spacing_width=8)["IMAGE"]
    _save(g, strip, start.frames)


WORKFLOWS = {
    "01 KV-Lock - edit one thing": edit_one_thing,
    "02 KV-Lock - KSampler and patch nodes": patch_nodes,
    "03 KV-Lock - Wan VACE": vace,
    "04 KV-Lock - Wan 2.2 two experts": two_experts,
    "05 KV-Lock - 4 steps at cfg 1": four_steps,
    "06 KV-Lock - compare side by side": compare,
}


def made_workflows(info: dict, versions: dict[str, str]) -> dict[str, dict]:
    """Name -> workflow. `info` is a server's /object_info, `versions` cnr_id -> version."""
    made = {}
    for name, fill in WORKFLOWS.items():
        graph = Graph(info, versions, MODELS)
        fill(graph)
        made[name] = graph.build(name)
    return made


# parts ----------------------------------------------------------------------------------------------------------------


def _models(g: Graph, unet: str, shift: float = 8.0, lora: str | None = None) -> tuple[Out, Out, Out]:
    g.column(360)
    g.group("1  Models", BLUE)
    model = g.add("UNETLoader", unet_name=unet)
    if lora:
        model = g.add("LoraLoaderModelOnly", "4-step LoRA", model=model["MODEL"], lora_name=lora)
    clip, vae = _text_and_vae(g)
    return g.add("ModelSamplingSD3", model=model["MODEL"], shift=shift)["MODEL"], clip, vae


def _text_and_vae(g: Graph) -> tuple[Out, Out]:
    clip = g.add("CLIPLoader", clip_name=TEXT, type="wan")
    return clip["CLIP"], g.add("VAELoader", vae_name=VAE)["VAE"]


def _clip_and_mask(g: Graph) -> tuple[Node, Out]:
    g.column(NARROW)
    g.group("2  Your clip", GREEN)
    frames = g.add("GetVideoComponents", video=g.add("LoadVideo", file=CLIP_FILE)["VIDEO"])
    g.group("3  Its mask: white may change", GREEN)
    return frames, g.add("LoadImageMask", image=MASK_FILE, channel="red")["MASK"]


def _words(g: Graph, clip: Out) -> list[Out]:
    g.column(WIDE)
    g.group("4  Words", GREEN)
    told = (("Source text: what the clip shows", SOURCE_TEXT, None), ("Positive: what the edit shows", EDIT_TEXT, GOOD),
            ("Negative: what to keep out", NEGATIVE_TEXT, BAD))  # fmt: skip
    return [g.add("CLIPTextEncode", title, colors, clip=clip, text=text)["CONDITIONING"] for title, text, colors in told]


def _start(g: Graph, models: tuple[Out, Out, Out], note: str, height: int, snap: bool = False) -> Start:
    """The columns up to what the model sees; `models` (model, text encoder, VAE) stand in the first one, above the note."""
    model, clip, vae = models
    g.note(note, height)
    frames, mask = _clip_and_mask(g)
    told, positive, negative = _words(g, clip)
    g.group("5  As the model sees it", GREEN)
    latent = g.add("VAEEncode", pixels=frames["images"], vae=vae)["LATENT"]
    mask = g.add("KVLockTokenMask", model=model, edit_mask=mask, frames=frames["images"], snap=snap)["edit_mask"]
    return Start(model, vae, frames, mask, latent, told, positive, negative)


def _held(g: Graph, title: str, start: Start) -> Node:
    g.column(WIDE)
    g.group(title, ORANGE)
    return g.add(
        "KVLockInvertCache", model=start.model, source_latent=start.latent, edit_mask=start.mask, source_conditioning=start.told
    )


def _ksampler(g: Graph, model: Out, start: Start, latent: Out) -> Node:
    return g.add("KSampler", model=model, positive=start.positive, negative=start.negative, latent_image=latent, seed=SEED, steps=30,
                 cfg=6.0, sampler_name="euler", scheduler="simple")  # fmt: skip


def _result(g: Graph, title: str, latent: Out, start: Start, report: Out) -> None:
    g.column(NARROW)
    g.group(title, BLUE)
    g.add("KVLockReport", report=report, latent=latent)
    _save(g, g.add("VAEDecode", samples=latent, vae=start.vae)["IMAGE"], start.frames)


def _save(g: Graph, images: Out, frames: Node) -> None:
    video = g.add("CreateVideo", images=images, fps=frames["fps"], audio=frames["audio"])
    g.add("SaveVideo", video=video["VIDEO"], filename_prefix="video/KV-Lock")
