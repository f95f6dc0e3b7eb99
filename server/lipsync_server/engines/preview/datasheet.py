"""The preview's data sheet. The engine needs no card, no torch and no download."""

from lipsync_server.engines.datasheet import DataSheet, name_row_by_preset

SHEET = DataSheet(
    name_row=name_row_by_preset("preview"),
    runs_on_cpu=True,
    cpu_speed="4 s for 9 s of video, measured on two CPU cores",
)
