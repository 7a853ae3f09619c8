"""The life of one sampling run: born in OUTER_SAMPLE, dead when it returns, whatever happened in between.

    OUTER_SAMPLE      a `Run` hangs its hooks into this run's own copy of the options
    PREPARE_SAMPLING  the host reserves memory for the source row                         memory.py
    SAMPLER_SAMPLE    schedule and shapes are known: the `LockSession` is made            steps.py, source.py, supply.py
    PREDICT_NOISE     one evaluation: begin(step) ... end()
    CALC_COND_BATCH   conditional prediction, before CFG and the inpaint blend: predicted(x0)
    pre-CFG           s_star                                                              guidance.py
    APPLY_MODEL       the source joins the batch or runs first, attention is overridden   rows.py, attention.py
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import comfy.samplers
import torch
from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.sampler_helpers import convert_cond
from torch import Tensor

from ...kvlock_core import LockSession, RiskWindow, RunTrace, SourceKV, StepPlan, StepRecord, Stored, locked_blocks
from . import events, guidance, memory
from .calls import ModelCall
from .composite import HeldBackground, check_kept_is_source, without_host_blend
from .models import ModelFamily, attention_shape, family_of
from .pace import Pace
from .rows import SOURCE_CONDS, SourceRows
from .source import source_path
from .steps import Timeline, timeline
from .supply import source_of_run

KEY = "kvlock_run"

HELD = "KV-Lock keeps the source outside the latent noise mask itself, since ComfyUI's blend would not keep it here"


def outer_sample(executor, patch, *args, **kwargs) -> Tensor:
    """Samples under the settings of `patch`, and hands the trace to its reports."""
    guider = executor.class_obj
    options = guider.model_options
    guider.model_options = create_model_options_clone(options)
    run = Run(guider, patch, latent_image=args[1])
    try:
        run.hang_into(guider.model_options)
        samples = executor(*args, **kwargs)
        run.hand_over(samples)
        return samples
    finally:
        guider.model_options = options
        run.forget()


class Run:
    """State of one run; only this run's options refer to it."""

    def __init__(self, guider, patch, latent_image: Tensor):
        self.guider, self.patch, self.name = guider, patch, events.new_run()
        source = patch.source
        self._continued: RiskWindow | None = None if source is None else source.unfinished.find(latent_image)
        self.session: LockSession | None = None
        self.plan: StepPlan | None = None
        self._timeline: Timeline | None = None
        self._rows: SourceRows | None = None
        self._source: SourceKV | None = None
        self._pace: Pace | None = None
        self._held: HeldBackground | None = None
        self._ahead: _Ahead | None = None
        self._earlier: tuple[StepRecord, ...] = ()

    def __deepcopy__(self, memo) -> Run:
        return self  # ComfyUI up to 0.8 deep-copies what hangs in options

    def hang_into(self, options: dict) -> None:
        """Adds the wrappers to `options`, and the source's text to the guider's conditions."""
        for kind, wrapper in (
            (WrappersMP.PREPARE_SAMPLING, self.prepare_sampling),
            (WrappersMP.SAMPLER_SAMPLE, self.sampler_sample),
            (WrappersMP.PREDICT_NOISE, self.predict_noise),
            (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self.apply_model),
        ):
            add_wrapper_with_key(kind, KEY, wrapper, options, is_model_options=True)
        if self.patch.lock is not None and self.patch.source.conditioning is not None:
            # hooks were registered before this run was born, so the source's text goes without
            conds = convert_cond(self.patch.source.conditioning)
            self.guider.conds[SOURCE_CONDS] = [{k: v for k, v in cond.items() if k != "hooks"} for cond in conds]

    def hand_over(self, samples: Tensor) -> None:
        """What outlives the run: its trace, and its risk window if noise is left for another model to go on from."""
        for report in self.patch.reports:
            report.add(samples, self.trace)
        if isinstance(self._source, Stored):
            events.inform((*self.patch.watchers, self.patch.source.node), self._source.summary)
        if self.patch.source is not None and not self._timeline.ends_clean:
            self.patch.source.unfinished.file(samples, self.session.window.moved_to("cpu"))

    def forget(self) -> None:
        """Frees every tensor, even if someone keeps this object."""
        if self._source is not None:
            self._source.close()
        self.session = self._rows = self._ahead = self._source = self._held = None

    @property
    def trace(self) -> RunTrace:
        now = self.session.trace
        return replace(now, steps=(*self._earlier, *now.steps))

    # the host's hooks, in the order of the table above ------------------------------------------------------------------

    def prepare_sampling(self, executor, model, noise_shape, *args, **kwargs):
        if self.patch.lock is not None and self.patch.source.storage.mode != "in_step":
            noise_shape = memory.reserving(noise_shape, self._conditions() + 1)
        return executor(model, noise_shape, *args, **kwargs)

    def sampler_sample(
        self, executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        model, patch = guider.inner_model, self.patch
        if patch.source is not None:  # without one, omega and the monitor serve any video model
            family = family_of(model)
            patch.source.check(family, noise.shape)
        if guidance.can_guide(guider):
            guidance.add_projection(extra_args["model_options"], lambda: self.session)
        elif patch.guidance is not None or patch.projection:
            events.say(patch.watchers, guidance.NOT_APPLIED)
        self._timeline = timeline(sigmas.tolist(), model.model_sampling)  # a copy: uni_pc writes into its levels
        if patch.lock is not None:
            denoise_mask = self._taken_over(family, denoise_mask, latent_image, noise, sigmas, extra_args["model_options"])
            self._pace = Pace(model, noise, executor.class_obj)
            self._prepare_source(family, noise)
        self.session = self._new_session(self._window_to_go_on_with(noise.device))
        samples = executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
        if self._pace is not None:
            self._pace.remember()
        return samples

    def predict_noise(self, executor, x, timestep, model_options, seed):
        sigma = float(timestep.max())
        step = self._timeline.step(sigma)
        if self.plan is not None and step < self.plan.step:  # a sampler that climbs back up starts a new window
            self._earlier, self.session = self.trace.steps, self._new_session()
        self.plan = self.session.begin(step, sigma)
        x = x if self._held is None else self._held.noisy(x, step, timestep)
        with self._timed(), self._omega(x, timestep, model_options):
            prediction = executor(x, timestep, model_options, seed)
        prediction = prediction if self._held is None else self._held.clean(prediction, timestep)
        record = self.session.end()
        events.step_done(self.patch.watchers, self.name, record, self._timeline.total, self.patch.tau, self.session.window)
        return prediction

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.answers(conds, x_in):
            return ahead.predictions_of(conds)
        predictions = executor(model, conds, x_in, timestep, model_options)
        self._observe(conds, predictions)
        return predictions

    def apply_model(self, executor, *args, **kwargs):
        if not self.plan.needs_source:
            return executor(*args, **kwargs)
        return self._rows.predict(executor, ModelCall.of(*args, **kwargs), self.session, self.plan)

    # before the first evaluation ----------------------------------------------------------------------------------------

    def _conditions(self) -> int:
        """Predictions that the guider wants in every evaluation."""
        conditions = sum(bool(conds) for name, conds in self.guider.conds.items() if name != SOURCE_CONDS)
        return guidance.rows_per_clip(self.guider, conditions)

    def _taken_over(
        self, family: ModelFamily, mask: Tensor | None, latent: Tensor, noise: Tensor, sigmas: Tensor, options: dict
    ) -> Tensor | None:
        """The noise mask (B,C,T,h,w) that is left to the host: None where its blend would not keep the source, and ours does."""
        goes_on = self._timeline.first > 0 and not noise.any()
        if mask is None or not (mask < 1).any() or self.patch.lock.ceiling == 0.0 or not (goes_on or family.blends_clean):
            return mask
        model, change = self.guider.inner_model, options.get("denoise_mask_function")
        z_src, given = model.process_latent_in(self.patch.source.samples.to(latent)), {"model": self.guider, "sigmas": sigmas}
        if not goes_on:
            check_kept_is_source(latent, z_src, mask)
        if family.blends_clean:
            without_host_blend(self.guider.conds)
        self._held = HeldBackground.of(
            z_src, (sigmas[0], noise, latent), lambda sigma: mask if change is None else change(sigma, mask, extra_options=given),
            model.model_sampling,
        )  # fmt: skip
        events.inform(self.patch.watchers, HELD)
        return None

    def _prepare_source(self, family: ModelFamily, noise: Tensor) -> None:
        """How the source gets to its noise levels, and where its K,V come from."""
        source, model = self.patch.source, self.guider.inner_model
        settings = self.patch.session_settings(guidance.can_guide(self.guider))
        last = locked_blocks(settings, attention_shape(model)[2])[-1]
        path = source_path(source, model, noise)
        grid = tuple(noise.shape[1:])
        self._rows = SourceRows(self.guider, family, grid, path, last, self._conditions(), self.patch.watchers)
        self._source = source_of_run(self._rows, source, settings, self._timeline, noise, self._pace.row_seconds)

    # one evaluation -----------------------------------------------------------------------------------------------------

    def _window_to_go_on_with(self, device: torch.device) -> RiskWindow | None:
        """The risk window of the run that made the latent this one starts from."""
        risk, window = self.patch.session_settings(guides=False).risk, self._continued
        goes_on = window is not None and self._timeline.first > 0 and window.continues(risk, self._timeline.total)
        return window.moved_to(device) if goes_on else None

    def _new_session(self, window: RiskWindow | None = None) -> LockSession:
        source = self.patch.source
        settings = self.patch.session_settings(guidance.can_guide(self.guider))
        return LockSession(
            settings,
            steps=self._timeline.total,
            edit=None if source is None else source.edit,
            tokens=None if source is None else source.tokens,
            omega0=self.guider.cfg,
            source=self._source,
            window=window,
        )

    def _omega(self, x: Tensor, timestep: Tensor, model_options: dict) -> AbstractContextManager:
        """This evaluation's CFG scale. It follows the evaluation's own prediction, so that is made first and handed over
        when the host asks: nothing is computed twice, and every CFG node sees the scale that will be used."""
        schedule = self.session.settings.guidance
        if schedule is None:
            return nullcontext()
        if schedule.kind == "risk":
            conds = [self.guider.conds["positive"], self.guider.conds["negative"]]
            predictions = comfy.samplers.calc_cond_batch(self.guider.inner_model, conds, x, timestep, model_options)
            self._ahead = _Ahead(x, conds, predictions)
        return guidance.scale(self.guider, self.session.omega())

    def _timed(self) -> AbstractContextManager:
        """Measures this evaluation, for the estimates of later runs."""
        if self._pace is None:
            return nullcontext()
        return self._pace.evaluation(self.plan.step, self._rows.conditions + (self.plan.supply in ("row", "apart")))

    def _observe(self, conds: list, predictions: list[Tensor]) -> None:
        """The first conditional prediction of an evaluation; later ones come from other packs' extra passes."""
        positive = self.guider.conds["positive"]
        for cond, x0 in zip(conds, predictions):
            if cond is positive and not self.session.has_predicted:
                self.session.predicted(x0)


class _Ahead:
    """Predictions made ahead, for the one time that the host asks for them."""

    def __init__(self, x: Tensor, conds: list, predictions: list[Tensor]):
        self._x, self._known = x, {id(cond): prediction for cond, prediction in zip(conds, predictions)}

    def answers(self, conds: list, x: Tensor) -> bool:
        return x is self._x and all(cond is None or id(cond) in self._known for cond in conds)

    def predictions_of(self, conds: list) -> list[Tensor]:
        return [torch.zeros_like(self._x) if cond is None else self._known[id(cond)] for cond in conds]
