"""Several series with gaps are forecast together, from a CSV file that pandas reads.

The file is made here: hourly temperature, pressure and wind, with cells and whole hours missing.
"""

import sys

import numpy as np
import pandas as pd

import pyoptk
from pyoptk.layers import Last, Linear, Sequential

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
rng = np.random.default_rng(0)


def write(path, hours=24 * 200):
    """Weather: fronts of some days pass, pressure falls first, then it gets windy and cold."""
    front = np.convolve(rng.normal(size=hours + 96), np.hanning(96) / 6, "valid")[: hours + 1]
    day = np.sin(2 * np.pi * (np.arange(hours) % 24 - 9) / 24)
    frame = pd.DataFrame({
        "temperature": 12 + 5 * day + 4 * np.roll(front, 12)[:hours] + rng.normal(0, 0.5, hours),
        "pressure": 1013 + 8 * front[:hours] + rng.normal(0, 0.5, hours),
        "wind": np.abs(4 - 3 * np.roll(front, 6)[:hours] + rng.normal(0, 0.5, hours)),
    }, pd.date_range("2024-01-01", periods=hours, freq="h", name="time")).round(1)  # fmt: skip
    frame = frame.mask(rng.random(frame.shape) < 0.05)  # a sensor was silent
    frame[rng.random(hours) > 0.03].to_csv(path)  # nothing was recorded


write("weather.csv")
frame = pd.read_csv("weather.csv", parse_dates=["time"], index_col="time").asfreq("h")
known = frame.notna()
print(f"{len(frame)} hours, of which {(~known.all(axis=1)).sum()} lack a value")

# Values in deviations from the mean, gaps at 0; and beside each, whether it is known.
cut = int(len(frame) * 0.8)
standard = (frame - frame[:cut].mean()) / frame[:cut].std()
features = pd.concat([standard.fillna(0), known], axis=1).to_numpy(np.float32)
T, ahead = 48, 12
windows = np.lib.stride_tricks.sliding_window_view(features[:-ahead], T, axis=0).swapaxes(1, 2)
targets = standard.to_numpy(np.float32)[T + ahead - 1 :]  # 12 hours after the last of a window


def error(y, target):
    """Mean squared error where the target is known."""
    return pyoptk.losses.mse(y, np.nan_to_num(target), weights=~np.isnan(target))


model = Sequential(
    pyoptk.GRU(6, 32, batch_first=True, rng=rng), Last(batch_first=True), Linear(32, 3, rng=rng)
)
train = len(windows) - (len(frame) - cut)
history = pyoptk.fit(
    model, error, pyoptk.Adam(model.params, lr=0.003), windows[:train], targets[:train],
    epochs=epochs, validation=0.1, rng=rng,
)  # fmt: skip
print(model, history, sep="\n")

deviation = frame[:cut].std().to_numpy()
miss = (model.predict(windows[train:]) - targets[train:]) * deviation
day_before = (frame.shift(24) - frame).to_numpy()[-len(miss) :]
print(f"mean error {ahead} hours ahead   model   as a day before")
ours, theirs = np.nanmean(abs(miss), axis=0), np.nanmean(abs(day_before), axis=0)
for k, name in enumerate(frame.columns):
    print(f"  {name:24} {ours[k]:6.2f} {theirs[k]:15.2f}")
