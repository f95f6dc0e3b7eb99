"""The counters and gauges of GET /metrics, in a registry that belongs to one application.

prometheus_client's global registry would mix the applications of one test process. Counters change when a job ends or
bytes pass; gauges are computed at each GET /metrics. Knows the records of jobs.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from lipsync_server.jobs.model import Job
from lipsync_server.jobs.running.queue import JobQueue

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
_SPEEDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 250)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.jobs = Gauge("lipsync_jobs", "Jobs on record by state.", ["state"], registry=registry)
        self.queue = Gauge("lipsync_queue_length", "Jobs that wait.", registry=registry)
        self.queue_s = Gauge(
            "lipsync_queue_seconds", "Expected seconds of work in the queue by engine.", ["engine"], registry=registry
        )
        self._engines: set[str] = set()
        self.workers = Gauge("lipsync_workers", "Workers.", ["node", "engine", "state"], registry=registry)
        self.ended = Counter("lipsync_jobs_ended", "Jobs that ended.", ["engine", "state"], registry=registry)
        self.stage_s = Histogram(
            "lipsync_stage_seconds",
            "Seconds per stage of a finished job.",
            ["engine", "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.speed = Histogram(
            "lipsync_seconds_per_second",
            "Seconds of work per second of video.",
            ["engine"],
            buckets=_SPEEDS,
            registry=registry,
        )
        self.worker_s = Counter("lipsync_worker_seconds", "Seconds of work by workers.", ["engine"], registry=registry)
        self.cost = Counter("lipsync_cost", "Total cost of the ended jobs.", ["currency"], registry=registry)
        self.bytes_in = Counter("lipsync_bytes_in", "Bytes of inputs received.", registry=registry)
        self.bytes_out = Counter("lipsync_bytes_out", "Bytes of videos sent.", registry=registry)

    def job_ended(self, job: Job) -> None:
        """Count an ended job, its seconds and its cost."""
        engine = job.engine or job.spec.engine
        self.ended.labels(engine, job.state).inc()
        self.worker_s.labels(engine).inc(job.worker_s)
        if job.cost is not None:
            self.cost.labels(job.cost.currency).inc(job.cost.amount)
        if job.outcome is not None:
            for stage, seconds in job.stage_s.items():
                self.stage_s.labels(engine, stage).observe(seconds)
            if job.outcome.duration_s > 0:
                self.speed.labels(engine).observe(job.outcome.render_s / job.outcome.duration_s)

    async def text(self, queue: JobQueue) -> bytes:
        """The answer of GET /metrics in Prometheus's text format, with the gauges computed now."""
        counts = await queue.store.counts()
        for state, n_jobs in counts.items():
            self.jobs.labels(state).set(n_jobs)
        self.queue.set(counts["queued"])
        waiting_s = await queue.forecast.waiting_s()
        # An engine for which nothing waits has 0. An autoscaler would keep the last value of a figure that is missing.
        self._engines |= waiting_s.keys() | {engine for info in queue.workers() for engine in info.engines}
        for engine in self._engines:
            self.queue_s.labels(engine).set(waiting_s.get(engine, 0.0))
        self.workers.clear()
        for info in queue.workers():
            self.workers.labels(info.node, info.engine, info.state).inc()
        return generate_latest(self.registry)
