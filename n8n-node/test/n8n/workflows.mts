/** Short functions that build the workflows of the tests. */
import type { NodeSpec, Workflow } from './n8n.mjs';

export const LIPSYNC = { lipsyncApi: { id: 'lipsync-good', name: 'Lipsync' } };

/** A Lipsync node with version 2 of the panel. `lipsync` makes a node with version 1. */
export function lipsync2(
	parameters: Record<string, unknown> = {},
	more: Partial<NodeSpec> = {},
): NodeSpec {
	return lipsync(parameters, { typeVersion: 2, ...more });
}

export function lipsync(
	parameters: Record<string, unknown> = {},
	more: Partial<NodeSpec> = {},
): NodeSpec {
	return {
		name: 'Lipsync',
		type: 'n8n-nodes-lipsync.lipsync',
		typeVersion: 1,
		parameters: { resource: 'video', operation: 'generate', ...parameters },
		credentials: LIPSYNC,
		...more,
	};
}

export const start: NodeSpec = {
	name: 'Start',
	type: 'n8n-nodes-base.manualTrigger',
	parameters: {},
};
export const end: NodeSpec = { name: 'Next', type: 'n8n-nodes-base.noOp', parameters: {} };

export function read(name: string, path: string, field: string): NodeSpec {
	return {
		name,
		type: 'n8n-nodes-base.readWriteFile',
		typeVersion: 1,
		parameters: { operation: 'read', fileSelector: path, options: { dataPropertyName: field } },
	};
}

export function write(path: string): NodeSpec {
	return {
		name: 'Write',
		type: 'n8n-nodes-base.readWriteFile',
		typeVersion: 1,
		parameters: { operation: 'write', fileName: path, dataPropertyName: 'data' },
	};
}

/** A trigger that polls every four seconds. n8n allows a single polling rule only once a minute, so there are fifteen. */
export function pollingTrigger(
	parameters: Record<string, unknown> = {},
	more: Partial<NodeSpec> = {},
): NodeSpec {
	const seconds = Array.from({ length: 15 }, (_, i) => 4 * i);
	const item = seconds.map((each) => ({ mode: 'custom', cronExpression: `${each} * * * * *` }));
	return {
		name: 'Trigger',
		type: 'n8n-nodes-lipsync.lipsyncTrigger',
		typeVersion: 1,
		parameters: { pollTimes: { item }, ...parameters },
		credentials: LIPSYNC,
		...more,
	};
}

/** A trigger that the server calls. */
export function webhookTrigger(
	parameters: Record<string, unknown> = {},
	more: Partial<NodeSpec> = {},
): NodeSpec {
	return {
		name: 'Trigger',
		type: 'n8n-nodes-lipsync.lipsyncWebhookTrigger',
		typeVersion: 1,
		webhookId: `lipsync-${Math.random().toString(36).slice(2)}`,
		parameters,
		credentials: LIPSYNC,
		...more,
	};
}

/** One item, or several, with these JSON fields. */
export function items(...json: object[]): NodeSpec {
	return {
		name: 'Items',
		type: 'n8n-nodes-base.code',
		typeVersion: 2,
		parameters: { jsCode: `return ${JSON.stringify(json.map((each) => ({ json: each })))};` },
	};
}

/** Nodes that read the pictures and recordings of a folder into items with both files, followed by the nodes `rest`. */
export function fromFiles(
	id: string,
	pictures: string,
	recordings: string,
	...rest: NodeSpec[]
): Workflow {
	const both: NodeSpec = {
		name: 'Both',
		type: 'n8n-nodes-base.merge',
		typeVersion: 3.2,
		parameters: { mode: 'combine', combineBy: 'combineByPosition', options: {} },
	};
	const flow = line(id, both, ...rest);
	const sources = [
		start,
		read('Pictures', pictures, 'image'),
		read('Recordings', recordings, 'audio'),
	];
	flow.nodes.unshift(
		...sources.map((node, i) => ({
			id: `${id}-s${i}`,
			position: [-400, i * 200],
			typeVersion: 1,
			...node,
		})),
	);
	flow.connections.Start = { main: [[to('Pictures'), to('Recordings')]] };
	flow.connections.Pictures = { main: [[to('Both')]] };
	flow.connections.Recordings = { main: [[to('Both', 1)]] };
	return flow;
}

/** Connect the nodes in a row. */
export function line(id: string, ...nodes: NodeSpec[]): Workflow {
	const connections: Record<string, unknown> = {};
	nodes.slice(1).forEach((node, i) => (connections[nodes[i].name] = { main: [[to(node.name)]] }));
	return {
		id,
		name: id,
		nodes: nodes.map((node, i) => ({
			id: `${id}-${i}`,
			position: [i * 200, 0],
			typeVersion: 1,
			...node,
		})),
		connections,
		settings: { executionOrder: 'v1' },
		active: false,
	};
}

export function to(node: string, index = 0): object {
	return { node, type: 'main', index };
}
