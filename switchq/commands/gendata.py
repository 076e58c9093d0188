"""`switchq gendata`: a model writes its own training data."""

from pathlib import Path
from typing import Any

from rich.console import Console

from switchq.commands.quiet import quiet
from switchq.data.generate import Generation, generate_dataset
from switchq.models import content_hash, load_model, load_tokenizer, pick_device
from switchq.words import command_line, count_of


def gendata_command(model: str, output: str, device: str, **settings: Any) -> None:
    """See `switchq.verbs.gendata`, whose arguments these are.

    Raises:
        UserError: anything the user can mend, before the work starts where that is possible.
    """
    quiet()
    Generation(**settings)
    place = pick_device(device)
    network = load_model(model)
    generation = Generation(**settings, base_hash=content_hash(network))
    network.to(place)  # type: ignore[arg-type]
    folder = generate_dataset(network, load_tokenizer(model), Path(output), generation)
    Console().print(
        f"Wrote {count_of(settings['count'], 'sequence')} to {folder}\n"
        f"Train on them with  {command_line('switchq', 'fit', '--config', '...', '--data.train', folder)}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
