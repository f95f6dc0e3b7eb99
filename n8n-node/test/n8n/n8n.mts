/**
 * A real n8n with the packed node in it.
 *
 * Credentials and workflows are saved and run by n8n's REST interface, as the editor does for Save and Execute.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, existsSync, mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import { isOver, isParked, unflatten, type Execution } from './execution.mjs';
import { installPackage } from './package.mjs';
import { N8N_2, eventually, freePort } from './places.mjs';

/** The reference of a node to its credential. */
export interface CredentialReference {
	id: string;
	name: string;
}

/** A credential of the tests. Nodes of the tests refer to it by `id`. */
export interface CredentialSpec extends CredentialReference {
	type: string;
	data: object;
}

export interface NodeSpec {
	name: string;
	type: string;
	typeVersion?: number;
	parameters?: Record<string, unknown>;
	credentials?: Record<string, CredentialReference>;
	onError?: string;
	retryOnFail?: boolean;
	[key: string]: unknown;
}

export interface Workflow {
	id: string;
	name: string;
	nodes: NodeSpec[];
	connections: Record<string, unknown>;
	settings?: Record<string, unknown>;
	active?: boolean;
	versionId?: string;
}

/** The limit of every wait. A loaded machine may be ten times slower than a quiet one. */
const LIMIT_S = 300;
const BROWSER = { 'browser-id': 'test-browser' };
export const OWNER = {
	email: 'owner@example.com',
	password: 'Password-1234',
	firstName: 'O',
	lastName: 'W',
};

export class N8n {
	private process?: ChildProcess;
	private worker?: ChildProcess;
	private cookie = '';
	private readonly known = new Map<string, CredentialReference>();
	readonly files: string;

	private constructor(
		readonly folder: string,
		readonly port: number,
		private readonly env: NodeJS.ProcessEnv,
		private readonly program: string,
	) {
		this.files = join(folder, 'files');
	}

	/** Make n8n's home folder with the node installed. n8n is not started. `program`: a folder that install.sh filled. */
	static async install(folder: string, env: NodeJS.ProcessEnv = {}, program = N8N_2): Promise<N8n> {
		const port = await freePort();
		const nodeHome = join(program, 'node', 'node_modules');
		const nodeBin = join(
			nodeHome,
			readdirSync(nodeHome).find((name) => name.startsWith('node-')) ?? '',
			'bin',
		);
		const n8n = new N8n(
			folder,
			port,
			{
				...process.env,
				PATH: `${nodeBin}:${process.env.PATH}`,
				NODE_OPTIONS: '',
				N8N_USER_FOLDER: folder,
				N8N_ENCRYPTION_KEY: 'key-of-the-test',
				N8N_PORT: String(port),
				N8N_LISTEN_ADDRESS: '127.0.0.1',
				N8N_HOST: '127.0.0.1',
				N8N_EDITOR_BASE_URL: `http://127.0.0.1:${port}`,
				WEBHOOK_URL: `http://127.0.0.1:${port}/`,
				N8N_SECURE_COOKIE: 'false',
				N8N_RUNNERS_BROKER_PORT: String(await freePort()),
				N8N_RESTRICT_FILE_ACCESS_TO: join(folder, 'files'),
				N8N_DIAGNOSTICS_ENABLED: 'false',
				N8N_VERSION_NOTIFICATIONS_ENABLED: 'false',
				N8N_TEMPLATES_ENABLED: 'false',
				N8N_PERSONALIZATION_ENABLED: 'false',
				N8N_LOG_LEVEL: 'info',
				NO_PROXY: '127.0.0.1,localhost',
				...env,
			},
			program,
		);
		mkdirSync(n8n.files, { recursive: true });
		installPackage(folder);
		return n8n;
	}

	get url(): string {
		return `http://127.0.0.1:${this.port}`;
	}

	async start(): Promise<void> {
		const before = this.log().length;
		const log = createWriteStream(join(this.folder, 'n8n.log'), { flags: 'a' });
		this.process = spawn('node', [this.programFile, 'start'], {
			env: this.env,
			stdio: ['ignore', 'pipe', 'pipe'],
		});
		this.process.stdout?.pipe(log);
		this.process.stderr?.pipe(log);
		// The last line of the start: parked executions are recovered, and the triggers of active workflows listen. Both
		// are missing when n8n first reports that it is ready. A webhook that is called before can lose its execution.
		await eventually(
			'n8n start',
			async () => {
				if (this.process?.exitCode !== null)
					throw new Error(`n8n ended, see ${this.folder}/n8n.log`);
				if (!this.log().includes('Editor is now accessible', before)) return undefined;
				return await fetch(`${this.url}/healthz/readiness`).then(
					(answer) => (answer.ok ? true : undefined),
					() => undefined,
				);
			},
			LIMIT_S,
		);
		if (this.cookie) return;
		const answer = await this.request('POST', '/owner/setup', OWNER);
		if (!answer.ok) throw new Error(`owner setup: ${answer.status} ${await answer.text()}`);
		this.cookie = answer.headers
			.getSetCookie()
			.map((line) => line.split(';')[0])
			.join('; ');
	}

	/** A worker of queue mode, which shares the database and the folder. */
	async startWorker(): Promise<void> {
		const log = createWriteStream(join(this.folder, 'worker.log'), { flags: 'a' });
		this.worker = spawn('node', [this.programFile, 'worker', '--concurrency=5'], {
			env: { ...this.env, N8N_RUNNERS_BROKER_PORT: String(await freePort()) },
			stdio: ['ignore', 'pipe', 'pipe'],
		});
		this.worker.stdout?.pipe(log);
		this.worker.stderr?.pipe(log);
		await eventually(
			'n8n worker',
			() => {
				if (this.worker?.exitCode !== null)
					throw new Error(`the worker ended, see ${this.folder}/worker.log`);
				return this.workerLog().includes('worker is now ready') ? true : undefined;
			},
			LIMIT_S,
		);
	}

	workerLog(): string {
		return readFileSync(join(this.folder, 'worker.log'), 'utf8');
	}

	async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
		await endProcess(this.process, signal);
	}

	async stopWorker(): Promise<void> {
		await endProcess(this.worker, 'SIGTERM');
	}

	get pid(): number {
		return this.process?.pid ?? 0;
	}

	log(): string {
		const path = join(this.folder, 'n8n.log');
		return existsSync(path) ? readFileSync(path, 'utf8') : '';
	}

	async rest<T>(method: string, path: string, body?: unknown): Promise<T> {
		const answer = await this.request(method, path, body);
		const text = await answer.text();
		if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text.slice(0, 500)}`);
		return (JSON.parse(text) as { data: T }).data;
	}

	/** On a loaded machine n8n sometimes reports that its database is lost. Until n8n finds it again, n8n answers 503. */
	private async request(method: string, path: string, body?: unknown): Promise<Response> {
		return await eventually(
			`${method} ${path}`,
			async () => {
				const answer = await fetch(`${this.url}/rest${path}`, {
					method,
					headers: { 'Content-Type': 'application/json', Cookie: this.cookie, ...BROWSER },
					body: body === undefined ? undefined : JSON.stringify(body),
				});
				return answer.status === 503 ? undefined : answer;
			},
			LIMIT_S,
		);
	}

	/** Press Execute. Returns the ID of the execution. */
	async run(workflow: Workflow): Promise<string> {
		const trigger = workflow.nodes.find(({ type }) => /trigger$/i.test(type));
		const { executionId } = await this.rest<{ executionId: string }>(
			'POST',
			`/workflows/${workflow.id}/run`,
			{
				triggerToStartFrom: { name: trigger?.name },
				// n8n 1.x runs the workflow in the request, not the saved one.
				workflowData: { ...workflow, pinData: {} },
			},
		);
		return executionId;
	}

	/** Save a workflow through the REST interface, press Execute, and return the ended execution. */
	async tryOut(workflow: Workflow, seconds = LIMIT_S): Promise<Execution> {
		return await this.runToEnd(await this.save(workflow), seconds);
	}

	async save(workflow: Workflow): Promise<Workflow> {
		const nodes = workflow.nodes.map((node) => this.withCredentials(node));
		const saved = await this.rest<{ id: string; versionId: string }>('POST', '/workflows', {
			...workflow,
			nodes,
			id: undefined,
		});
		return { ...workflow, nodes, id: saved.id, versionId: saved.versionId };
	}

	/** The reference under which n8n knows a credential of the tests. */
	reference(given: CredentialReference): CredentialReference {
		return this.known.get(given.id) ?? given;
	}

	private withCredentials(node: NodeSpec): NodeSpec {
		const entries = Object.entries(node.credentials ?? {});
		const real = entries.map(([type, given]) => [type, this.reference(given)] as const);
		return entries.length === 0 ? node : { ...node, credentials: Object.fromEntries(real) };
	}

	/** Switch a saved workflow on, so that its trigger works. */
	async activate(workflow: Workflow): Promise<void> {
		const path = `/workflows/${workflow.id}`;
		const { versionId } = workflow;
		try {
			await this.rest('POST', `${path}/activate`, { versionId });
		} catch {
			// n8n 1.x has no such address.
			await this.rest('PATCH', path, { active: true, versionId });
		}
	}

	/** Switch it off again. */
	async deactivate(workflow: Workflow): Promise<void> {
		const path = `/workflows/${workflow.id}`;
		const { versionId } = await this.rest<{ versionId: string }>('GET', path);
		try {
			await this.rest('POST', `${path}/deactivate`, { versionId });
		} catch {
			// n8n 1.x has no such address.
			await this.rest('PATCH', path, { active: false, versionId });
		}
	}

	/** The ended executions of a workflow. */
	async executionsOf(workflow: Workflow): Promise<Execution[]> {
		return (await this.stored(workflow, 100)).filter(isOver);
	}

	/** The newest execution of a workflow if it is over or parked; empty before. */
	async newestOf(workflow: Workflow): Promise<Execution[]> {
		const newest = await this.stored(workflow, 1);
		return newest.filter((each) => isOver(each) || isParked(each));
	}

	/** Of the newest executions of a workflow, the ones that do not run. */
	private async stored(workflow: Workflow, limit: number): Promise<Execution[]> {
		const filter = encodeURIComponent(JSON.stringify({ workflowId: workflow.id }));
		const { results } = await this.rest<{ results: Array<{ id: string; status: string }> }>(
			'GET',
			`/executions?filter=${filter}&limit=${limit}`,
		);
		const stored = results.filter(({ status }) => status !== 'new' && status !== 'running');
		return await Promise.all(stored.map(async ({ id }) => await this.execution(id)));
	}

	/** Save a credential. Returns the reference to it for a node. */
	async saveCredential(name: string, type: string, data: object): Promise<CredentialReference> {
		const { id } = await this.rest<{ id: string }>('POST', '/credentials', { name, type, data });
		return { id, name };
	}

	/** Save credentials under IDs of the tests. `save` puts n8n's own ID in the place of such an ID. */
	async addCredentials(credentials: CredentialSpec[]): Promise<void> {
		for (const { id, name, type, data } of credentials)
			this.known.set(id, await this.saveCredential(name, type, data));
	}

	async execution(id: string): Promise<Execution> {
		const found = await this.rest<{ id: string; status: string; data: string }>(
			'GET',
			`/executions/${id}`,
		);
		return { ...found, data: unflatten(found.data) };
	}

	/** Wait for the end of the execution, and return it. */
	async ended(id: string, seconds = LIMIT_S): Promise<Execution> {
		return await this.once(id, 'end', isOver, seconds);
	}

	/** Wait until the execution is parked. */
	async parked(id: string, seconds = LIMIT_S): Promise<void> {
		await this.once(id, 'be parked', isParked, seconds);
	}

	private async once(
		id: string,
		what: string,
		holds: (execution: Execution) => boolean,
		seconds: number,
	): Promise<Execution> {
		let last: Execution | undefined;
		return await eventually(
			() => `execution ${id} has to ${what}, and its state is ${last?.status}`,
			async () => {
				last = await this.execution(id);
				return holds(last) ? last : undefined;
			},
			seconds,
		);
	}

	async runToEnd(workflow: Workflow, seconds = LIMIT_S): Promise<Execution> {
		return await this.ended(await this.run(workflow), seconds);
	}

	/** The bytes of a binary of an execution, wherever n8n stores it. */
	async binary(stored?: { id?: string; data: string }): Promise<Buffer> {
		if (stored?.id === undefined) return Buffer.from(stored?.data ?? '', 'base64');
		const query = new URLSearchParams({ id: stored.id, action: 'download' }).toString();
		const answer = await this.request('GET', `/binary-data?${query}`);
		if (!answer.ok) throw new Error(`binary ${stored.id}: ${answer.status} ${await answer.text()}`);
		return Buffer.from(await answer.arrayBuffer());
	}

	private get programFile(): string {
		return join(this.program, 'n8n', 'node_modules', 'n8n', 'bin', 'n8n');
	}
}

async function endProcess(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
	if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
	const ended = once(child, 'exit');
	child.kill(signal);
	await ended;
}
