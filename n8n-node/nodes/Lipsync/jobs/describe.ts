/** A job as the flat JSON of an output item, with the server's field names. Simplify keeps ten fields at most. */
import type { IDataObject } from 'n8n-workflow';

import { makeLink } from './link';
import { jobPath } from './watch';
import type { Server } from '../api/server';
import type { Job } from '../api/types';

const SIMPLE_RESULT = [
	'job_id',
	'state',
	'engine',
	'file_name',
	'duration_s',
	'size_bytes',
	'cost',
	'warnings',
	'video_url',
	// Only of a video that the server has checked.
	'quality_score',
];
const SIMPLE_STATUS = [
	'job_id',
	'state',
	'engine',
	'file_name',
	'stage',
	'fraction',
	'queue_position',
	'expected_finish',
	'failure',
	'created_at',
];

/** The JSON for a finished video. */
export async function describeResult(
	server: Server,
	job: Job,
	isSimple: boolean,
): Promise<IDataObject> {
	const full = {
		...result(job, await videoUrl(server, job)),
		...(await captionUrls(server, job)),
		...(await quality(server, job)),
	};
	return isSimple ? only(full, SIMPLE_RESULT) : full;
}

/** The short JSON for an AI agent, whose model costs money per word. It has a link, because the user has no token. */
export async function describeForAgent(server: Server, job: Job): Promise<IDataObject> {
	const link = await makeLink(server, job.id);
	return {
		job_id: job.id,
		duration_s: job.result?.duration_s,
		...(job.result?.quality ? { score: job.result.quality.score } : {}),
		warnings: job.result?.warnings ?? [],
		...(link ?? { video_url: await videoUrl(server, job) }),
	};
}

/** The JSON for a job in any state. */
export async function describeStatus(
	server: Server,
	job: Job,
	isSimple: boolean,
): Promise<IDataObject> {
	if (isSimple && job.state === 'succeeded') return await describeResult(server, job, true);
	const full: IDataObject = {
		job_id: job.id,
		state: job.state,
		engine: job.engine,
		file_name: job.file_name,
		stage: job.progress.stage,
		fraction: job.progress.fraction,
		note: job.progress.note,
		queue_position: job.queue_position,
		expected_finish: job.progress.expected_finish,
		created_at: job.created_at,
		started_at: job.started_at,
		finished_at: job.finished_at,
		...(job.error === null ? {} : { failure: { ...job.error } }),
		...(job.state === 'succeeded' ? result(job, await videoUrl(server, job)) : {}),
	};
	return isSimple ? only(full, SIMPLE_STATUS) : full;
}

/** The addresses of the captions; no fields for a video without captions. */
async function captionUrls(server: Server, job: Job): Promise<IDataObject> {
	if (!job.links.captions_srt) return {};
	const address = await server.address();
	return {
		captions_srt_url: `${address}${jobPath(job.id, '/captions.srt')}`,
		captions_vtt_url: `${address}${jobPath(job.id, '/captions.vtt')}`,
	};
}

/** The check's score and findings, and the address of its contact sheet; no fields for an unchecked video. */
async function quality(server: Server, job: Job): Promise<IDataObject> {
	const checked = job.result?.quality;
	if (!checked) return {};
	const findings = checked.findings.map(({ name, from_s, to_s, sentence }) => ({
		name,
		from_s,
		to_s,
		sentence,
	}));
	return {
		quality: { score: checked.score, findings },
		attempts: job.result?.attempts ?? [],
		sheet_url: `${await server.address()}${jobPath(job.id, '/sheet')}`,
	};
}

async function videoUrl(server: Server, job: Job): Promise<string> {
	return `${await server.address()}${jobPath(job.id, '/video')}`;
}

function result(job: Job, url: string): IDataObject {
	const made = job.result;
	return {
		job_id: job.id,
		state: job.state,
		engine: job.engine,
		file_name: job.file_name,
		width: made?.width,
		height: made?.height,
		fps: made?.fps,
		n_frames: made?.n_frames,
		duration_s: made?.duration_s,
		size_bytes: made?.size_bytes,
		sha256: made?.sha256,
		render_s: made?.render_s,
		seconds_per_second: made?.seconds_per_second,
		seed: made?.seed,
		cost: job.cost === null ? null : { amount: job.cost.amount, currency: job.cost.currency },
		warnings: made?.warnings ?? [],
		video_url: url,
		stored_url: job.links.stored,
		expires_at: job.expires_at,
		...(made?.quality ? { quality_score: made.quality.score } : {}),
	};
}

function only(full: IDataObject, names: string[]): IDataObject {
	return Object.fromEntries(names.filter((name) => name in full).map((name) => [name, full[name]]));
}
