"""How many turns of each dialogue a row keeps, by trying: every candidate row is built anew and measured."""

from ieat_jax.data import layout


def kept_turns(dialogues, chat, shapes, options):
    """Turns of each dialogue that fit, the largest number first; a first dialogue that does not fit raises."""
    kept, counts = [], []
    for turns in dialogues:
        for count in range(len(turns), -1, -1):
            if count == 0:
                break
            row = whole([*kept, turns[:count]], chat, options)
            too_large = [name for name, size in row.size().items() if size > getattr(shapes, name)]
            if not too_large:
                break
        counts.append(count)
        if count:
            kept.append(turns[:count])
        elif not kept:
            raise layout.LayoutError("too_long", f"{too_large[0]} is {row.size()[too_large[0]]}")
    return kept, counts


def whole(dialogues, chat, options):
    """A row of dialogues that is never taken back, and tokenises a text whenever it meets it."""
    # the real pieces, put together the long way
    row = layout._Row(chat, layout.AudioPlaces(5), options, chat.tokenizer.encode)
    for turns in dialogues:
        row.open_dialogue()
        for number, plan in enumerate(turns):
            row.turn(plan)
            if number < len(turns) - 1:
                row.history(plan)
    return row
