"""What a run is about to do, for the user: its header, and how many steps its phases take."""

from pathlib import Path

import jax

from mnemonics_jax.phase.setup import Setup


def run_facts(setup: Setup, out: Path) -> dict[str, str]:
    """Return the header of a run: data, method, exemplars, device and folder, each as text."""
    config = setup.config
    exemplars = "none"
    if config.method.uses_memory:
        budget = f"{config.exemplars.per_class} a class"
        if config.exemplars.total is not None:
            budget = f"{config.exemplars.total} in all"
        exemplars = f"{config.exemplars.name}, {budget}"
    facts = data_facts(setup)
    return {
        "data": facts["data"],
        "method": f"{config.method.name}, recipe {config.recipe}, seed {config.seed}",
        "exemplars": exemplars,
        "device": facts["device"],
        "folder": str(out),
    }


def data_facts(setup: Setup) -> dict[str, str]:
    """Return what runs on the same data share: data and device, as text."""
    stream, dataset = setup.stream, setup.stream.dataset
    later = f" + {len(stream.sizes) - 1} × {stream.sizes[1]}" if len(stream.sizes) > 1 else ""
    shape = "×".join(map(str, dataset.image_shape))
    kind = jax.devices()[0].device_kind
    return {
        "data": f"{dataset.name}, {len(stream.train_labels):,} training and {len(stream.test_labels):,} test images "
        f"of {shape}, classes {stream.sizes[0]}{later}",
        "device": f"{setup.devices.count} × {kind}, {setup.net.dtype or 'float32'}",
    }


def planned_steps(setup: Setup) -> list[int]:
    """Return about how many steps each phase takes: training, balanced fine-tuning, and learning of exemplars."""
    config, stream = setup.config, setup.stream
    train, strategy, method = config.train, config.exemplars, config.method
    steps = []
    for phase in range(stream.num_phases):
        old = stream.new_classes(phase).start
        kept = old * strategy.budget(stream.seen(phase - 1)) if phase and method.uses_memory else 0
        count = train.steps(phase, len(stream.train_indices(phase, joint=method.sees_all_data)) + kept)
        if phase and method.uses_memory:
            count += train.balanced_steps
        if setup.learns:
            size = setup.group_classes or stream.num_classes
            count += strategy.outer_steps * -(-stream.sizes[phase] // size)
            count += 2 * strategy.adjust_steps * -(-old // size) if strategy.adjust else 0
        steps.append(count)
    return steps
