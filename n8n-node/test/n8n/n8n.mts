/**
 * A real n8n with the packed node in it, laid out as n8n's community installer does.
 *
 * Credentials and workflows come in through n8n's own import commands; workflows run through its REST API, as they do
 * when someone presses Execute in the editor.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
	createWriteStream,
	existsSync,
	mkdirSync,
	readFileSync,
	readdirSync,
	writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

import { isOver, isParked, unflatten, type Execution } from './execution.mjs';
import { N8N_2, PACKAGE, eventually, freePort } from './places.mjs';

export interface NodeSpec {
	name: string;
	type: string;
	typeVersion?: number;
	parameters?: Record<string, unknown>;
	credentials?: Record<string, { id: string; name: string }>;
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
		n8n.installPackage();
		return n8n;
	}

	get url(): string {
		return `http://127.0.0.1:${this.port}`;
	}

	/** Run n8n's import commands. Only the IDs connect workflows with their credentials. */
	importAll(credentials: object[], workflows: Workflow[]): void {
		const credentialsFile = join(this.folder, 'credentials.json');
		const workflowsFile = join(this.folder, 'workflows.json');
		writeFileSync(credentialsFile, JSON.stringify(credentials));
		writeFileSync(workflowsFile, JSON.stringify(workflows));
		this.command('import:credentials', `--input=${credentialsFile}`);
		this.command('import:workflow', `--input=${workflowsFile}`);
	}

	command(...args: string[]): string {
		return execFileSync('node', [this.programFile, ...args], {
			env: this.env,
			encoding: 'utf8',
			timeout: 180_000,
		});
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
		// are missing when n8n reports that it is ready. A webhook that is called before can lose its execution.
		await eventually(
			'n8n start',
			() => {
				if (this.process?.exitCode !== null)
					throw new Error(`n8n ended, see ${this.folder}/n8n.log`);
				return this.log().includes('Editor is now accessible', before) ? true : undefined;
			},
			180,
		);
		if (this.cookie) return;
		const answer = await fetch(`${this.url}/rest/owner/setup`, {
			method: 'POST',
			headers: { 'Content-Type': 'application/json', ...BROWSER },
			body: JSON.stringify(OWNER),
		});
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
			180,
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
		const answer = await fetch(`${this.url}/rest${path}`, {
			method,
			headers: { 'Content-Type': 'application/json', Cookie: this.cookie, ...BROWSER },
			body: body === undefined ? undefined : JSON.stringify(body),
		});
		const text = await answer.text();
		if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text.slice(0, 500)}`);
		return (JSON.parse(text) as { data: T }).data;
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
	async tryOut(workflow: Workflow, seconds = 120): Promise<Execution> {
		return await this.runToEnd(await this.save(workflow), seconds);
	}

	async save(workflow: Workflow): Promise<Workflow> {
		const saved = await this.rest<{ id: string; versionId: string }>('POST', '/workflows', {
			...workflow,
			id: undefined,
		});
		return { ...workflow, id: saved.id, versionId: saved.versionId };
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

	async saveCredential(
		name: string,
		type: string,
		data: object,
	): Promise<{ id: string; name: string }> {
		const { id } = await this.rest<{ id: string }>('POST', '/credentials', { name, type, data });
		return { id, name };
	}

	async execution(id: string): Promise<Execution> {
		const found = await this.rest<{ id: string; status: string; data: string }>(
			'GET',
			`/executions/${id}`,
		);
		return { ...found, data: unflatten(found.data) };
	}

	/** Wait for the end of the execution, and return it. */
	async ended(id: string, seconds = 120): Promise<Execution> {
		return await this.once(id, 'end', isOver, seconds);
	}

	/** Wait until the execution is parked. */
	async parked(id: string, seconds = 120): Promise<void> {
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

	async runToEnd(workflow: Workflow, seconds = 120): Promise<Execution> {
		return await this.ended(await this.run(workflow), seconds);
	}

	/** The bytes of a binary of an execution, wherever n8n stores it. */
	async binary(stored?: { id?: string; data: string }): Promise<Buffer> {
		if (stored?.id === undefined) return Buffer.from(stored?.data ?? '', 'base64');
		const query = new URLSearchParams({ id: stored.id, action: 'download' }).toString();
		const answer = await fetch(`${this.url}/rest/binary-data?${query}`, {
			headers: { Cookie: this.cookie, ...BROWSER },
		});
		if (!answer.ok) throw new Error(`binary ${stored.id}: ${answer.status} ${await answer.text()}`);
		return Buffer.from(await answer.arrayBuffer());
	}

	private get programFile(): string {
		return join(this.program, 'n8n', 'node_modules', 'n8n', 'bin', 'n8n');
	}

	private installPackage(): void {
		const nodes = join(this.folder, '.n8n', 'nodes');
		const target = join(nodes, 'node_modules', 'n8n-nodes-lipsync');
		mkdirSync(target, { recursive: true });
		const packed = execFileSync('npm', ['pack', '--json', '--pack-destination', this.folder], {
			cwd: PACKAGE,
			encoding: 'utf8',
			stdio: ['ignore', 'pipe', 'ignore'],
		});
		const [{ filename, version }] = JSON.parse(packed) as Array<{
			filename: string;
			version: string;
		}>;
		execFileSync('tar', [
			'-xzf',
			join(this.folder, filename),
			'-C',
			target,
			'--strip-components=1',
		]);
		const manifestFile = join(target, 'package.json');
		const manifest = JSON.parse(readFileSync(manifestFile, 'utf8')) as Record<string, unknown>;
		for (const kind of ['devDependencies', 'peerDependencies', 'optionalDependencies'])
			delete manifest[kind];
		writeFileSync(manifestFile, JSON.stringify(manifest, null, 2));
		execFileSync('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund'], {
			cwd: target,
			stdio: 'ignore',
		});
		writeFileSync(
			join(nodes, 'package.json'),
			JSON.stringify({
				name: 'installed-nodes',
				private: true,
				dependencies: { 'n8n-nodes-lipsync': version },
			}),
		);
	}
}

async function endProcess(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
	if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
	const ended = once(child, 'exit');
	child.kill(signal);
	await ended;
}
