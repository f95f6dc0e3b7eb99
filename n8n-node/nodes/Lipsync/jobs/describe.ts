/** A job as the JSON of an output item: small, flat, in the words of the server. */
import type { IDataObject } from 'n8n-workflow';

import type { Job } from '../api/types';

/** What is known about a job that has ended well. */
export function describeResult(job: Job, videoUrl: string): IDataObject {
	const result = job.result;
	return {
		job_id: job.id,
		state: job.state,
		engine: job.engine,
		file_name: job.file_name,
		width: result?.width,
		height: result?.height,
		fps: result?.fps,
		n_frames: result?.n_frames,
		duration_s: result?.duration_s,
		size_bytes: result?.size_bytes,
		sha256: result?.sha256,
		render_s: result?.render_s,
		seconds_per_second: result?.seconds_per_second,
		seed: result?.seed,
		cost: job.cost === null ? null : { amount: job.cost.amount, currency: job.cost.currency },
		warnings: result?.warnings ?? [],
		video_url: videoUrl,
		stored_url: job.links.stored,
		expires_at: job.expires_at,
	};
}

/** Where a job stands at this moment. */
export function describeStatus(job: Job, videoUrl: string): IDataObject {
	const status: IDataObject = {
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
	};
	if (job.error !== null) status.failure = { ...job.error };
	return job.state === 'succeeded' ? { ...status, ...describeResult(job, videoUrl) } : status;
}
