/**
 * How long the node waits for a server.
 *
 * `Patience` bounds one request with its repetitions. `TimeLimit` bounds everything that the node does for one item:
 * upload, full queue, render and download together. Knows no HTTP.
 */
export interface Patience {
	/** How long one attempt may take, in milliseconds. */
	attemptMs: number;
	/** How long the node retries after a lost connection or a gateway's answer (502, 504), in milliseconds. */
	reconnectMs: number;
	/** How long the node retries while the queue is full (429) or the server loads (503 with Retry-After), in milliseconds. */
	busyMs: number;
	limit?: TimeLimit;
}

export const USUAL: Patience = { attemptMs: 60_000, reconnectMs: 6_000, busyMs: 6_000 };

/** For an upload or download of up to some gigabytes. */
export const TRANSFER: Patience = { ...USUAL, attemptMs: 3_600_000 };

/**
 * A stopwatch with a limit. The clock runs only inside `during`. The last item of a batch therefore loses no time while
 * the node waits for earlier items.
 */
export class TimeLimit {
	private usedMs = 0;
	private runningSince: number | undefined;

	constructor(
		readonly totalMs: number,
		private readonly now: () => number = Date.now,
	) {}

	get leftMs(): number {
		const runningMs = this.runningSince === undefined ? 0 : this.now() - this.runningSince;
		return Math.max(0, this.totalMs - this.usedMs - runningMs);
	}

	get isOver(): boolean {
		return this.leftMs <= 0;
	}

	/** The limit in words, such as "1.5 minutes". */
	get inWords(): string {
		const minutes = Math.round(this.totalMs / 600) / 100;
		return `${minutes} minute${minutes === 1 ? '' : 's'}`;
	}

	async during<T>(work: () => Promise<T>): Promise<T> {
		this.runningSince = this.now();
		try {
			return await work();
		} finally {
			this.usedMs += this.now() - this.runningSince;
			this.runningSince = undefined;
		}
	}
}
