/** A real `lipsync serve` with the preview engine. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { LIPSYNC, eventually, freePort } from './places.mjs';

export const TOKEN = 'a-token-of-the-test';

export interface JobView {
	id: string;
	state: string;
	file_name: string;
	image_name: string;
	collected_at: string | null;
	attempts: number;
	progress: { stage: string; fraction: number };
	result: { size_bytes: number; sha256: string } | null;
}

export class LipsyncServer {
	private process?: ChildProcess;

	private constructor(
		private readonly folder: string,
		readonly port: number,
		private readonly command: string[],
		private readonly settings: NodeJS.ProcessEnv,
	) {}

	static async start(folder: string, ...flags: string[]): Promise<LipsyncServer> {
		return await LipsyncServer.program([LIPSYNC, 'serve', '--engine', 'preview', ...flags], folder);
	}

	/** Another program that serves, with its settings in variables. */
	static async program(
		command: string[],
		folder: string,
		settings: NodeJS.ProcessEnv = {},
	): Promise<LipsyncServer> {
		mkdirSync(folder, { recursive: true });
		const server = new LipsyncServer(folder, await freePort(), command, settings);
		await server.start();
		return server;
	}

	get url(): string {
		return `http://127.0.0.1:${this.port}`;
	}

	async start(): Promise<void> {
		const log = createWriteStream(join(this.folder, 'server.log'), { flags: 'a' });
		const [program, ...args] = this.command;
		const settings = {
			LIPSYNC_TOKENS: TOKEN,
			LIPSYNC_PORT: String(this.port),
			LIPSYNC_DATA_DIR: join(this.folder, 'data'),
			...this.settings,
		};
		this.process = spawn(program, args, {
			env: { ...process.env, ...settings },
			stdio: ['ignore', 'pipe', 'pipe'],
		});
		this.process.stdout?.pipe(log);
		this.process.stderr?.pipe(log);
		await eventually('lipsync serve', async () => {
			if (this.process?.exitCode !== null)
				throw new Error(`lipsync serve ended, see ${this.folder}/server.log`);
			return await fetch(`${this.url}/healthz`).then(
				(answer) => (answer.ok ? true : undefined),
				() => undefined,
			);
		});
	}

	async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
		const child = this.process;
		if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
		const ended = once(child, 'exit');
		// A suspended process reacts to no signal but SIGKILL.
		this.thaw();
		child.kill(signal);
		await ended;
	}

	async get<T>(path: string): Promise<T> {
		return (await (await this.fetch(path)).json()) as T;
	}

	async fetch(path: string, init: RequestInit = {}): Promise<Response> {
		return await fetch(`${this.url}${path}`, {
			...init,
			headers: { ...init.headers, Authorization: `Bearer ${TOKEN}` },
		});
	}

	/** Suspend the server's process: its connections stay open, and no request is answered. */
	freeze(): void {
		this.process?.kill('SIGSTOP');
	}

	thaw(): void {
		this.process?.kill('SIGCONT');
	}

	/** Every job, newest first. */
	async jobs(): Promise<JobView[]> {
		const jobs: JobView[] = [];
		for (let after = ''; ; ) {
			const page = await this.get<{ jobs: JobView[]; next: string | null }>(
				`/v1/jobs?limit=200${after}`,
			);
			jobs.push(...page.jobs);
			if (page.next === null) return jobs;
			after = `&after=${jobs[jobs.length - 1].id}`;
		}
	}

	/** Wait for a running job that is not in `known`. stage: the stage in which the job must be, if given. */
	async runningBeside(known: JobView[], stage?: string): Promise<JobView> {
		const others = new Set(known.map(({ id }) => id));
		return await eventually('the running job', async () =>
			(await this.jobs()).find(
				({ id, state, progress }) =>
					state === 'running' && !others.has(id) && (!stage || progress.stage === stage),
			),
		);
	}

	/** Wait until a job has its video. */
	async succeeded(id: string): Promise<void> {
		await eventually(`the video of job ${id}`, async () => {
			const { state } = await this.get<JobView>(`/v1/jobs/${id}`);
			return state === 'succeeded' ? true : undefined;
		});
	}

	/** Start a job as the web page or curl does. Returns its ID. */
	async submit(image: Buffer, audio: Buffer): Promise<string> {
		const body = new FormData();
		body.set('image', new Blob([new Uint8Array(image)]), 'portrait.jpg');
		body.set('audio', new Blob([new Uint8Array(audio)]), 'speech.wav');
		const answer = await this.fetch('/v1/jobs', { method: 'POST', body });
		if (!answer.ok) throw new Error(`POST /v1/jobs: ${answer.status} ${await answer.text()}`);
		return ((await answer.json()) as { id: string }).id;
	}

	async video(id: string): Promise<Buffer> {
		return Buffer.from(await (await this.fetch(`/v1/jobs/${id}/video`)).arrayBuffer());
	}
}
