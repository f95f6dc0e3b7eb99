/**
 * The functions that n8n gives a node while it runs, with n8n's own types, over real HTTP.
 *
 * Only n8n itself is imitated. The request helper behaves as measured on n8n 2.41.1: it applies the credential, returns
 * every status, follows no redirect and obeys the cancel signal. Its binary store holds files in memory or by ID.
 */
import { request } from 'node:http';
import { Readable } from 'node:stream';

import type {
	IBinaryData,
	ICredentialDataDecryptedObject,
	IExecuteFunctions,
	IHttpRequestOptions,
	INode,
	INodeExecutionData,
} from 'n8n-workflow';

import { LipsyncApi } from '../../credentials/LipsyncApi.credentials.js';
import { LipsyncMachineApi } from '../../credentials/LipsyncMachineApi.credentials.js';
import { Lipsync } from '../../nodes/Lipsync/Lipsync.node.js';

export interface Setup {
	baseUrl?: string;
	parameters?: Record<string, unknown>;
	items?: INodeExecutionData[];
	onError?: INode['onError'];
	executionId?: string;
	runIndex?: number;
	tool?: boolean;
	/** The version of the panel; 2 unless set. */
	typeVersion?: number;
	/** Base URLs by item, as an expression in the credential gives them. */
	baseUrls?: string[];
	signal?: AbortSignal;
	/** The account at a provider of rented GPUs. */
	account?: ICredentialDataDecryptedObject;
	/** Files by id; items refer to them. */
	store?: Map<string, { bytes: Buffer; fileName?: string }>;
}

const DEFAULTS = {
	resource: 'video',
	operation: 'generate',
	imageInput: 'binary',
	audioInput: 'binary',
	options: {},
};
const DEFAULTS_OF_VERSION_1 = {
	resource: 'video',
	operation: 'generate',
	imageInput: 'binary',
	imageField: 'image',
	audioInput: 'binary',
	audioField: 'audio',
	wait: 'poll',
	timeoutMinutes: 1,
	outputField: 'data',
	engine: 'auto',
	additionalFields: {},
};

export interface Context extends IExecuteFunctions {
	lines: string[];
	store: Map<string, { bytes: Buffer; fileName?: string }>;
}

export function makeContext(setup: Setup = {}): Context {
	const typeVersion = setup.typeVersion ?? 2;
	const parameters: Record<string, unknown> = {
		...(typeVersion < 2 ? DEFAULTS_OF_VERSION_1 : DEFAULTS),
		...setup.parameters,
	};
	const items = setup.items ?? [withFiles()];
	const store = setup.store ?? new Map();
	const lines: string[] = [];
	const log = (line: string) => lines.push(line);
	const node: INode = {
		id: 'node-1',
		name: 'Lipsync',
		type: 'n8n-nodes-lipsync.lipsync',
		typeVersion,
		position: [0, 0],
		parameters: {},
		onError: setup.onError,
	};
	const credentials: ICredentialDataDecryptedObject = {
		baseUrl: setup.baseUrl ?? '',
		token: 'secret',
	};
	const known = {
		lines,
		store,
		logger: { info: log, warn: log, debug: log, error: log },
		getNode: () => node,
		getWorkflow: () => ({ id: 'workflow-1', name: 'w', active: false }),
		getInstanceId: () => 'instance-1',
		getExecutionId: () => setup.executionId ?? '17',
		evaluateExpression: () => setup.runIndex ?? 0,
		getInputData: () => items,
		getNodeParameter: (name: string, _item: number, fallback?: unknown) => {
			const value = parameters[name] ?? fallback;
			if (value === undefined) throw new Error(`Could not get parameter "${name}"`);
			return value;
		},
		getCredentials: async (type: string, i = 0) => ({
			...(type === 'lipsyncMachineApi' ? setup.account : credentials),
			...(type === 'lipsyncApi' ? { baseUrl: setup.baseUrls?.[i] ?? credentials.baseUrl } : {}),
		}),
		continueOnFail: () =>
			setup.onError === 'continueRegularOutput' || setup.onError === 'continueErrorOutput',
		...(setup.tool === undefined ? {} : { isToolExecution: () => setup.tool }),
		getExecutionCancelSignal: () => setup.signal,
		sendMessageToUI: () => {},
		helpers: {
			assertBinaryData: (i: number, field: string) => {
				const binary = items[i].binary?.[field];
				if (binary === undefined)
					throw new Error(`The item has no binary field '${field}' [item ${i}]`);
				return binary;
			},
			getBinaryDataBuffer: async (i: number, field: string) =>
				Buffer.from(items[i].binary?.[field].data ?? '', 'base64'),
			getBinaryStream: async (id: string) =>
				Readable.from(chunksOf(store.get(id)?.bytes ?? Buffer.alloc(0))),
			getBinaryMetadata: async (id: string) => ({ fileSize: store.get(id)?.bytes.length ?? 0 }),
			prepareBinaryData: async (stream: Readable | Buffer, fileName: string, mimeType: string) => {
				const chunks: Buffer[] = [];
				if (Buffer.isBuffer(stream)) chunks.push(stream);
				else for await (const chunk of stream) chunks.push(chunk as Buffer);
				const id = `stored-${store.size}`;
				store.set(id, { bytes: Buffer.concat(chunks), fileName });
				return { id, fileName, mimeType, data: 'filesystem-v2' } satisfies IBinaryData;
			},
			async httpRequestWithAuthentication(
				this: IExecuteFunctions,
				type: string,
				options: IHttpRequestOptions,
			): Promise<unknown> {
				// n8n too reads the credential from `this`, without an item.
				const own = await this.getCredentials(type);
				const known = type === 'lipsyncApi' ? new LipsyncApi() : new LipsyncMachineApi();
				const signed = await known.authenticate(own, options);
				return await exchange(signed, this.getExecutionCancelSignal());
			},
			httpRequest: async (options: IHttpRequestOptions): Promise<unknown> =>
				await exchange(options, options.abortSignal as AbortSignal | undefined),
		},
	};
	return known as unknown as Context;
}

export async function execute(context: Context): Promise<INodeExecutionData[]> {
	const [output] = await new Lipsync().execute.call(context);
	return output;
}

/** An item with a picture and a recording in memory. */
export function withFiles(image = 'a picture', name = 'anna.png'): INodeExecutionData {
	return {
		json: {},
		binary: {
			image: { data: Buffer.from(image).toString('base64'), mimeType: 'image/png', fileName: name },
			audio: {
				data: Buffer.from('sound').toString('base64'),
				mimeType: 'audio/wav',
				fileName: 'a.wav',
			},
		},
	};
}

function* chunksOf(bytes: Buffer): Generator<Buffer> {
	for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}

function queryOf(query: IHttpRequestOptions['qs']): string {
	const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined);
	return given.length === 0
		? ''
		: `?${new URLSearchParams(given.map<[string, string]>(([name, value]) => [name, String(value)])).toString()}`;
}

async function exchange(options: IHttpRequestOptions, signal?: AbortSignal): Promise<unknown> {
	return await new Promise((resolve, reject) => {
		const sent = request(
			`${options.baseURL ?? ''}${options.url}${queryOf(options.qs)}`,
			{
				method: options.method,
				headers: options.headers as Record<string, string>,
				signal,
				agent: false,
			},
			(answer) => {
				const full = { statusCode: answer.statusCode, headers: answer.headers };
				if (options.encoding === 'stream') {
					resolve({ ...full, body: answer });
					return;
				}
				const chunks: Buffer[] = [];
				answer.on('data', (chunk: Buffer) => chunks.push(chunk));
				answer.on('error', reject);
				answer.on('end', () => {
					const text = Buffer.concat(chunks).toString();
					resolve({ ...full, body: text.startsWith('{') ? JSON.parse(text) : text });
				});
			},
		);
		sent.on('error', reject);
		const body = options.json
			? JSON.stringify(options.body)
			: (options.body as Buffer | Readable | undefined);
		if (body instanceof Readable) body.on('error', reject).pipe(sent);
		else sent.end(body);
	});
}
