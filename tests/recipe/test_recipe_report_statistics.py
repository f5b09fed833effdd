"""What a report says of incidents and of the model's inside."""

from langwright.recipe.report_statistics import MOST_ROWS, incidents, statistics_maps


def test_incidents_are_counted_and_listed():
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None, "skipped": True}]
    records += [{"step": s, "loss": 5.0, "loss_spike": 12.5} for s in (7, 8)]
    text = incidents(records)
    assert "1 updates skipped, 2 with a loss" in text and "12.5 deviations" in text
    assert incidents(records[:1]) == ""


def test_maps_of_statistics():
    row = {"rms": 0.125, "max": 1.0, "zeros": 0.0}
    parameter = {"weight": 1.0, "gradient": None, "gradient_max": None, "update": 1e-3}
    records = [
        {"step": step, "activations": {"blocks.0": row}, "parameters": {"a.weight": parameter}}
        for step in range(10, 1000, 10)
    ]
    text = statistics_maps(records)
    assert "blocks.0" in text and "0.125" in text and "0.001" in text
    assert "Size of gradients" not in text  # none was finite
    assert statistics_maps([]) == "" and statistics_maps([{"step": 1}]) == ""
    many = {f"blocks.{i}.weight": parameter for i in range(300)}
    text = statistics_maps([{"step": 1, "parameters": many}])
    assert 30 <= text.count('text-anchor="end"') <= MOST_ROWS
