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
	data: { resultData: { runData: Record<string, RunData[]>; error?: RunData['error'] } };
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
	return at(0) as Execution['data'];
}

/** The items of `node`'s main output in its first run. */
export function output(execution: Execution, node: string, index = 0): Item[] {
	return execution.data.resultData.runData[node]?.[0]?.data?.main[index] ?? [];
}
