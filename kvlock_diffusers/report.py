"""The demo's report as Markdown."""

from __future__ import annotations

COLUMNS = ("", "background PSNR", "worst frame", "background SSIM", "colour drift R/G/B", "seam", "flicker", "edit seen", "time")


def markdown(report: dict) -> str:
    """What was edited, how well, and how to read it."""
    goal = report["goal"]
    rows = [row("VAE round trip of the source", report["vae_round_trip"])]
    rows += [row(name, numbers) for name, numbers in report["methods"].items()]
    return "\n".join(
        [
            "# KV-Lock demo",
            "",
            f"Source: {report['source_prompt']}  ",
            f"Edit: {report['prompt']}  ",
            f"Test clip {report['clip']['index']}; the edit mask covers {report['clip']['mask_share']:.0%} of the pixels.",
            "",
            "![source, mask, the three edits and the exact answer](comparison.png)",
            "",
            table(rows),
            "",
            f"Wanted: {goal['color']} {goal['shape']}. All background figures are means over unmasked pixels only; the VAE round trip is "
            "the ceiling of any edit that goes through the latent. Colour drift in 1/255, seam and flicker in 1/255 "
            "(0 = as in the source).",
            "",
            "![risk, alpha, omega, s_star of every step](schedule.png)",
            "",
        ]
    )


def table(rows: list[tuple[str, ...]]) -> str:
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def row(name: str, numbers: dict) -> tuple[str, ...]:
    """One table line; measures that a clip does not define are dashes."""
    drift = " / ".join(f"{255 * value:+.1f}" for value in numbers["color_drift"])
    seen = numbers.get("seen")
    return (
        name,
        f"{numbers['psnr']:.1f} dB",
        f"{numbers['psnr_worst_frame']:.1f} dB",
        number(numbers["ssim"], 1, ".3f"),
        drift,
        number(numbers["seam"], 255, ".1f"),
        number(numbers["flicker_background"], 255, "+.1f"),
        "" if seen is None else f"{seen['color'] or 'no'} {seen['shape'] or 'shape named'}",
        f"{numbers['seconds']:.0f} s" if "seconds" in numbers else "",
    )


def number(value: float | None, scale: float, form: str) -> str:
    return "-" if value is None else format(scale * value, form)
