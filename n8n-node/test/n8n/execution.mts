/** The stored result of one run of a workflow: its state, and the items of every node. */

export interface Item {
	json: Record<string, unknown>;
	binary?: Record<string, { fileName?: string; mimeType: string; id?: string; data: string }>;
	pairedItem?: unknown;
}

export interface RunData {
	error?: { message: string; description?: string; httpCode?: string };
	data?: { main: Array<Item[] | null> };
	executionStatus: string;
}

export interface Execution {
	id: string;
	status: string;
	data: {
		resultData: {
			runData: Record<string, RunData[]>;
			lastNodeExecuted?: string;
			error?: RunData['error'];
		};
		/** Set while the execution is parked. n8n removes the field when the execution continues. */
		waitTill?: string;
	};
}

/**
 * Whether the execution is over, and its data is that of its end.
 *
 * n8n 1.x with SQLite stores the state in one update and the data in a second one, without a transaction. Between the
 * two a reader gets the new state with the data of the start, which is empty, or with the data of the moment when the
 * execution was parked.
 *
 * A parked execution that continues has its data stored anew before its end, without the node that was parked, or with
 * that node still waiting. So the last node must have a result of its own.
 *
 * When n8n starts again, it marks a parked execution as crashed, because its event log notes no end of a parked
 * execution. A moment later it marks the execution as waiting again. So a crashed execution with the data of a parked
 * one is not over.
 */
export function isOver({ status, data }: Execution): boolean {
	const { error, lastNodeExecuted, runData } = data.resultData;
	switch (status) {
		case 'success': {
			const last = runData[lastNodeExecuted ?? '']?.at(-1);
			return data.waitTill === undefined && last !== undefined && last.executionStatus !== 'waiting';
		}
		case 'error':
			return error !== undefined;
		case 'canceled':
			return error !== undefined || (data.waitTill === undefined && lastNodeExecuted !== undefined);
		case 'crashed':
			return data.waitTill === undefined;
		default:
			return false;
	}
}

/** Whether the execution is parked, and its data is that of this moment. */
export function isParked({ status, data }: Execution): boolean {
	return status === 'waiting' && data.waitTill !== undefined;
}

/** n8n stores run data as a list in which a string of digits is the index of another entry. This resolves them. */
export function unflatten(text: string): Execution['data'] {
	const entries = JSON.parse(text) as unknown[];
	const done = new Map<number, unknown>();
	const at = (index: number): unknown => {
		if (done.has(index)) return done.get(index);
		const entry = entries[index];
		if (typeof entry !== 'object' || entry === null) return entry;
		const value: Record<string, unknown> | unknown[] = Array.isArray(entry) ? [] : {};
		done.set(index, value);
		for (const [key, each] of Object.entries(entry)) {
			(value as Record<string, unknown>)[key] = typeof each === 'string' ? at(Number(each)) : each;
		}
		return value;
	};
	// The data of an execution that has just begun is an empty list.
	return (at(0) ?? { resultData: { runData: {} } }) as Execution['data'];
}

/** The items of `node`'s main output in its first run. */
export function output(execution: Execution, node: string, index = 0): Item[] {
	return execution.data.resultData.runData[node]?.[0]?.data?.main[index] ?? [];
}
