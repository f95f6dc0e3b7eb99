/** The part of the server's wire format (its `/openapi.json`) that the node reads. */

export type JobState = 'queued' | 'running' | 'succeeded' | 'failed' | 'cancelled';

export interface JobResult {
	width: number;
	height: number;
	fps: number;
	duration_s: number;
	n_frames: number;
	size_bytes: number;
	sha256: string;
	render_s: number;
	seconds_per_second: number;
	seed: number;
	warnings: string[];
	/** Missing in answers of older servers, which check no videos; null for a video that was not checked. */
	quality?: Quality | null;
	unchecked?: string | null;
	attempts?: Array<{ seed: number; score: number | null }>;
}

/** The check of a finished video. */
export interface Quality {
	/** From 0 to 1; null if the check cannot judge the video. */
	score: number | null;
	findings: Array<{ name: string; from_s: number; to_s: number; sentence: string }>;
}

export interface JobCost {
	worker_seconds: number;
	price_per_hour: number;
	amount: number;
	currency: string;
}

export interface Job {
	id: string;
	state: JobState;
	engine: string;
	prompt: string;
	image_name: string;
	audio_name: string;
	file_name: string;
	created_at: string;
	started_at: string | null;
	finished_at: string | null;
	collected_at: string | null;
	expires_at: string | null;
	queue_position: number | null;
	attempts: number;
	progress: { stage: string; fraction: number; note: string; expected_finish: string | null };
	result: JobResult | null;
	cost: JobCost | null;
	error: { code: string; title: string; detail: string } | null;
	links: {
		video: string | null;
		stored: string | null;
		/** Missing in answers of older servers, which make no captions. */
		captions_srt?: string | null;
		captions_vtt?: string | null;
		sheet?: string | null;
	};
}

export interface EngineStatus {
	name: string;
	title: string;
	available: boolean;
	reason: string;
	device: string;
	presets: string[];
	resolutions: string[];
	max_people: number;
	options_schema?: { properties?: Record<string, OptionSchema> };
}

/** One option of an engine, as JSON schema. */
export interface OptionSchema {
	description?: string;
	default?: unknown;
	minimum?: number;
	maximum?: number;
	enum?: unknown[];
}

export interface ServerInfo {
	default: string;
	default_reason: string;
	engines: EngineStatus[];
	workers: Array<{ node: string; engine: string; state: string; job_id: string | null }>;
	limits: Record<string, number>;
	defaults: Record<string, unknown>;
	queue_length: number;
	public_url: string | null;
	idle_stop_in_s: number | null;
	version: string;
}

export interface Readiness {
	ready: boolean;
	stage: 'starting' | 'downloading' | 'loading' | 'ready' | 'failed';
	fraction: number;
	detail: string;
	bytes_done: number | null;
	bytes_total: number | null;
	seconds_left: number | null;
}

/** RFC 9457 problem document. */
export interface Problem {
	title: string;
	status: number;
	detail: string;
	code: string;
	field?: string;
}

export function isFinal(state: JobState): boolean {
	return state === 'succeeded' || state === 'failed' || state === 'cancelled';
}
