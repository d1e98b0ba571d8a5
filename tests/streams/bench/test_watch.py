"""CPU and memory of a process, as samples tell them."""

from streams.bench.watch import ProcessSamples


def test_cpu_between_two_moments_is_read_between_the_samples():
    """A moment seldom falls on a sample: the time in between is shared out evenly."""
    samples = ProcessSamples()
    samples.add(10.0, 1.0, 5_000_000)
    samples.add(11.0, 2.0, 9_000_000)
    samples.add(13.0, 2.0, 7_000_000)

    assert 0.5 == samples.cpu_between_s(10.5, 12.0)
    assert 9.0 == samples.peak_rss_mb
    assert 8.0 == samples.rss_mb_at(12.0)
