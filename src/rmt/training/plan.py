"""Plan a run to fit `minutes`: choose network, sizes and length by the data and by measured steps on this machine.

The task lists candidates, from the best to the cheapest. The cheapest one is measured, the time of the others is
predicted from their relative work, see `predict`, and the best one that sees enough images in the time is measured and
taken, or the next cheaper one if it is slower than predicted. On a CPU that multiplies bfloat16 the cheapest one is
also measured under autocast, which all of them then use if it is clearly faster. Everything that is chosen is a field
of the resolved recipe, so a resumed run never plans again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rmt.device import multiplies_bfloat16
from rmt.errors import RMTError
from rmt.recipes.recipe import Recipe
from rmt.terminal import plural
from rmt.training.batch import effective_batch, resolve_ema_decay, world_size
from rmt.training.distributed import processes
from rmt.training.logging.display import duration
from rmt.training.measure import Clock, Measured, Timing, measure, predict
from rmt.training.network import resolve_network
from rmt.training.task import Candidate, Log, Planning, Task

MOST_MEASURED = 3  # candidates
EVALUATION_SHARE = 0.08  # of the time, at most, for evaluations during training
MOST_EVALUATIONS = 40
BUILD_SECONDS = 1.0  # between the plan and the first step, at least
SAVE_SECONDS = 0.3  # of checkpoint and weight files, with each evaluation
REPORT_SECONDS = 4.0  # of the weight files and the report at the end
MOST_ADVISED = 20  # times the minutes, for a better choice to be mentioned
BFLOAT16_SHARE = 0.85  # of the seconds of a step in float32, at most, for autocast to be chosen
BFLOAT16_MINUTES = 2.0  # at least; measuring it takes up to ten seconds
MARGIN = 0.03  # of the minutes that stay unplanned


@dataclass(frozen=True)
class Outline:
    """The run that a candidate makes in the time.

    Attributes:
        candidate, timing: what runs, and its measured or predicted seconds.
        recipe: the candidate's recipe, resolved.
        updates, evaluations: the length of the run.
        start, training, evaluation, end: seconds of its parts.
        fits: whether it ends in time and sees as many images as the candidate needs.
    """

    candidate: Candidate[Any]
    timing: Timing
    recipe: Recipe
    updates: int
    evaluations: int
    start: float
    training: float
    evaluation: float
    end: float
    fits: bool

    @property
    def seconds(self) -> float:
        return self.start + self.training + self.evaluation + self.end

    @property
    def minutes_wanted(self) -> float:
        """Whole minutes in which it would see the images that it needs."""
        image = self.timing.step * self.recipe.accumulate / effective_batch(self.recipe)
        return -(-(self.start + self.end + image * self.candidate.images / (1 - EVALUATION_SHARE)) // 60)


def needs_plan(recipe: Recipe, task: Task[Any, Any, Any]) -> bool:
    """Whether the recipe asks for a plan by time and leaves open something that the plan chooses."""
    return bool(recipe.minutes and task.planning and any(map(recipe.is_open, task.planning.fields)))


class Planner:
    """Plans one run. In several processes all plan alike: they share the measurements and the main process's clock.

    Args:
        recipe: with the machine's part resolved.
        data: the opened data.
        task: lists the candidates.
        device: this process's.
        started: `clock()` when the run began, from which its minutes count.
        clock: seconds, `time.monotonic` but in tests.
    """

    recipe: Recipe
    data: Any
    task: Task[Any, Any, Any]
    planning: Planning[Any, Any]
    device: torch.device
    started: float
    clock: Clock
    build_seconds: float

    def __init__(
        self, recipe: Recipe, data: Any, task: Task[Any, Any, Any], device: torch.device, started: float, clock: Clock
    ) -> None:
        self.recipe, self.data, self.task, self.device = recipe, data, task, device
        self.started, self.clock = started, clock
        assert task.planning is not None
        self.planning = task.planning
        self.build_seconds = BUILD_SECONDS

    def plan(self, log: Log, *, open_precision: bool = False) -> tuple[Any, float]:
        """Returns the resolved recipe of the choice, and the seconds that its run takes; logs the plan in five lines.

        Raises RMTError when the minutes do not even suffice for the evaluations.

        Args:
            log: prints a line.
            open_precision: whether the plan may choose bfloat16 autocast on a CPU.
        """
        candidates = [self._with_network(c) for c in self.planning.candidates(self.recipe, self.data)]
        place = len(candidates) - 1
        measured = {place: self._measure(candidates[place], log)}
        allowed = open_precision and self.planning.bfloat16 and self.recipe.device == "cpu"
        if allowed and self.recipe.minutes >= BFLOAT16_MINUTES and multiplies_bfloat16():
            in_bfloat16 = [_in_bfloat16(candidate) for candidate in candidates]
            found = self._measure(in_bfloat16[place], log)
            if found.timing.step <= BFLOAT16_SHARE * measured[place].timing.step:
                candidates, measured = in_bfloat16, {place: found}
        while True:
            outlines = self._outlines(candidates, measured)
            place = next((i for i, outline in enumerate(outlines) if outline.fits), len(candidates) - 1)
            if place in measured or len(measured) == MOST_MEASURED:
                break
            measured[place] = self._measure(candidates[place], log)
        if place not in measured:
            fitting = [i for i in sorted(measured) if outlines[i].fits]
            place = fitting[0] if fitting else max(measured)
        chosen = outlines[place]
        self._require_training(chosen)
        given = not self.planning.length_is_open(self.recipe)
        weights = "" if self.recipe.weights else self.planning.advise_weights(self.data)
        for line in describe(chosen, outlines[:place], self.recipe, len(self.data.train), given=given, weights=weights):
            log(line)
        return chosen.recipe, chosen.seconds

    @staticmethod
    def _with_network(candidate: Candidate[Any]) -> Candidate[Any]:
        return replace(candidate, recipe=resolve_ema_decay(resolve_network(candidate.recipe)))

    def _measure(self, candidate: Candidate[Any], log: Log) -> Measured:
        log(f"measuring a few steps of {candidate.label} …")
        updates = max(candidate.images // effective_batch(candidate.recipe), 1) if candidate.images else 1
        recipe = self._resolved(candidate, updates, 1)
        began = self.clock()
        module = self.task.build(recipe, self.data, fresh=False, log=lambda line: None)
        self.build_seconds = max(self.clock() - began, BUILD_SECONDS)
        return Measured(candidate.work, recipe.batch_size, measure(module, self.device, self.clock))

    def _outlines(self, candidates: Sequence[Candidate[Any]], measured: dict[int, Measured]) -> list[Outline]:
        elapsed = processes.broadcast_from_main(lambda: self.clock() - self.started)
        known = list(measured.values())
        outlines = []
        for place, candidate in enumerate(candidates):
            if place in measured:
                timing = measured[place].timing
            else:
                timing = predict(known, candidate.work, candidate.recipe.batch_size)
            outlines.append(self._outline(candidate, timing, elapsed))
        return outlines

    def _outline(self, candidate: Candidate[Any], timing: Timing, elapsed: float) -> Outline:
        budget = 60 * self.recipe.minutes
        recipe = candidate.recipe
        start = elapsed + self.build_seconds + decoding_seconds(timing, recipe, self.data)
        evaluation, end = evaluation_seconds(timing, recipe, self.data, self.planning)
        left = budget * (1 - MARGIN) - start - end
        most = int(EVALUATION_SHARE * budget / evaluation)
        evaluations = min(max(most, 1), MOST_EVALUATIONS)
        update = timing.step * recipe.accumulate
        for _ in range(2):  # again with the time of evaluations that the task does not make
            updates = max(int((left - evaluations * evaluation) / update), 1)
            recipe = self._resolved(candidate, updates, evaluations)
            updates, evaluations = self.planning.length(recipe, self.data)
        parts = dict(start=start, training=updates * update, evaluation=evaluations * evaluation, end=end)
        fits = sum(parts.values()) <= budget and updates * effective_batch(recipe) >= candidate.images
        return Outline(candidate, timing, recipe, updates, evaluations, **parts, fits=fits)

    def _resolved(self, candidate: Candidate[Any], updates: int, evaluations: int) -> Any:
        recipe = self.planning.set_length(candidate.recipe, self.data, updates, evaluations)
        return self.task.resolve(recipe, self.data)

    def _require_training(self, chosen: Outline) -> None:
        """Raises RMTError when start and evaluations leave less than a tenth of the time for training."""
        budget = 60 * self.recipe.minutes
        other = chosen.start + chosen.evaluation + chosen.end
        if other > 0.9 * budget and self.planning.length_is_open(self.recipe):
            needed = -(-other // 30)  # minutes, half of which are for training
            raise RMTError(
                f"--minutes {self.recipe.minutes:g} is too short: to start, to evaluate "
                f"{plural(len(self.data.val), 'image')} and to report takes {duration(other)} alone on this machine; "
                f"take --minutes {needed:g} or more, fewer validation images, or --minutes 0 for no plan"
            )


def _in_bfloat16(candidate: Candidate[Any]) -> Candidate[Any]:
    label = f"{candidate.label} in bfloat16"
    return replace(candidate, recipe=replace(candidate.recipe, precision="bf16"), label=label)


def evaluation_seconds(timing: Timing, recipe: Recipe, data: Any, planning: Planning[Any, Any]) -> tuple[float, float]:
    """Seconds of an evaluation during training, and of what follows the last one, files and report included."""
    networks = 2 if recipe.ema_decay else 1
    evaluation = timing.image * len(data.val) / world_size(recipe) + SAVE_SECONDS
    final = planning.final_images(recipe, data, networks) / networks
    return evaluation, (timing.image + timing.decoding) * final + REPORT_SECONDS


def decoding_seconds(timing: Timing, recipe: Recipe, data: Any) -> float:
    """Seconds by which the first pass over the training and validation images takes longer than later ones."""
    return timing.decoding * (len(data.train) + len(data.val)) / world_size(recipe)


def describe(
    chosen: Outline, better: Sequence[Outline], recipe: Recipe, images: int, *, given: bool, weights: str
) -> list[str]:
    """Returns the plan in five lines: what for, the choice, why, how long, what to change for better.

    Args:
        chosen, better: the choice, and those that do not fit.
        recipe: before the plan.
        images: number of training images.
        given: whether the recipe gives the length.
        weights: advice on weights to start from, if any.
    """
    ran, shown = chosen.recipe, chosen.updates * effective_batch(chosen.recipe)
    passes = shown / images
    seen = f"each image {passes:,.0f} times" if passes >= 2 else f"{100 * passes:,.0f} % of one pass over the images"
    length = f"{plural(chosen.updates, 'update')} of {effective_batch(ran)}, {seen}"
    if chosen.fits:
        why = f"the best of {len(better) + 1} choices that sees enough images" if better else "the best choice"
    elif given and chosen.seconds > 60 * recipe.minutes:
        why = "the cheapest choice, and longer than the minutes, since its length is given"
    else:
        why = f"the cheapest choice, which sees only {shown:,} of the {chosen.candidate.images:,} images wanted"
    if chosen.candidate.why_last:
        why += f", as {chosen.candidate.why_last}"
    speed = (
        f"{_seconds(chosen.timing.step)} a step of {ran.batch_size}, {_seconds(chosen.timing.image)} an evaluated image"
    )
    times = (
        f"{duration(chosen.start)} to start, {duration(chosen.training)} for {length}, "
        f"{duration(chosen.evaluation)} for {plural(chosen.evaluations, 'evaluation')}, {duration(chosen.end)} to "
        f"finish: {duration(chosen.seconds)} in all"
    )
    return [
        f"plan for {plural(recipe.minutes, 'minute')} on {ran.device} (--minutes N: another time; 0: no plan)",
        f"  network  {chosen.candidate.label}",
        f"  why      {why}; measured {speed}",
        f"  time     {times}",
        f"  better   {_advice(chosen, better, recipe, weights)}",
    ]


def _advice(chosen: Outline, better: Sequence[Outline], recipe: Recipe, weights: str) -> str:
    advice = []
    if not chosen.fits:
        advice.append(f"--minutes {chosen.minutes_wanted:g} to see enough images")
    elif better and better[-1].minutes_wanted <= MOST_ADVISED * recipe.minutes:
        advice.append(
            f"--minutes {max(better[-1].minutes_wanted, recipe.minutes + 1):g} for {better[-1].candidate.label}"
        )
    else:
        advice.append(f"--minutes {2 * recipe.minutes:g} to train longer")
    if weights:
        advice.append(weights)
    if recipe.device == "cpu":
        advice.append("a GPU")
    return "; ".join(advice)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
