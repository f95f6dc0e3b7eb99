/**
 * How long the node waits for a server.
 *
 * `Patience` bounds one request with its repetitions. `TimeLimit` bounds everything that the node does for one item:
 * upload, full queue, render and download together. Knows no HTTP.
 */
export interface Patience {
	/** How long one attempt may take, in milliseconds. */
	attemptMs: number;
	/** How long a lost connection or a gateway's answer (502, 504) is tried again. */
	reconnectMs: number;
	/** How long a full queue (429) or a loading server (503 with Retry-After) is asked again. */
	busyMs: number;
	limit?: TimeLimit;
}

export const USUAL: Patience = { attemptMs: 60_000, reconnectMs: 6_000, busyMs: 6_000 };

/** For one body of up to some gigabytes, in either direction. */
export const TRANSFER: Patience = { ...USUAL, attemptMs: 3_600_000 };

/**
 * A stopwatch with an end. The clock runs only inside `during`, so that a batch's last item does not lose its time
 * while the node waits for the items before it.
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

	/** The limit in a sentence: "1.5 minutes". */
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
