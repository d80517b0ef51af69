"""The plots of the report."""

from matplotlib.figure import Figure

from rmt.training.logging.plots import plot_accuracy


def test_the_last_score_is_inside_the_plot():
    ax = Figure().subplots()
    falling = ([1, 2, 3, 4, 5, 6, 7, 8], [30.5, 34.0, 34.2, 34.3, 34.4, 34.5, 34.4, 27.8])
    plot_accuracy(ax, falling, ([], []), (6, 34.5), "")
    low, high = ax.get_ylim()
    assert low < 27.8 and high > 34.5
