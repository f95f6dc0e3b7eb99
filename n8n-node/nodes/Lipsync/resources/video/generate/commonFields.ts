/**
 * The fields of Generate that both versions of the node have.
 *
 * Version 2 keeps most of them in collections; version 1 shows them one below the other. The two versions word a few
 * descriptions differently, and override the description where they use the field.
 */
import type { INodeProperties } from 'n8n-workflow';

export const preset: INodeProperties = {
	displayName: 'Preset',
	name: 'preset',
	type: 'options',
	options: [
		{ name: 'Balanced', value: 'balanced' },
		{ name: 'Default of the Server', value: '' },
		{ name: 'Fast', value: 'fast' },
		{ name: 'Quality', value: 'quality' },
	],
	default: '',
	description: 'How much time the engine spends: Quality takes about ten times as long as Fast',
};

export const prompt: INodeProperties = {
	displayName: 'Prompt',
	name: 'prompt',
	type: 'string',
	typeOptions: { rows: 2 },
	default: '',
	placeholder: 'e.g. A woman speaks to the camera in a bright room',
	description: 'The scene and how the person acts, in English',
};

export const resolution: INodeProperties = {
	displayName: 'Resolution',
	name: 'resolution',
	type: 'options',
	options: [
		{ name: '480p', value: '480p' },
		{ name: '720p', value: '720p' },
		{ name: 'Default of the Server', value: '' },
	],
	default: '',
	description: 'Size of the video. The shape of the picture decides width and height.',
};

export const secondRecordingField: INodeProperties = {
	displayName: 'Second Recording Field',
	name: 'secondAudioField',
	type: 'string',
	default: '',
	placeholder: 'e.g. audio2',
	description: 'Name of the input field with the voice of a second person in the picture',
};

export const secondRecordingUrl: INodeProperties = {
	displayName: 'Second Recording URL',
	name: 'secondAudioUrl',
	type: 'string',
	default: '',
	placeholder: 'e.g. https://example.com/second.mp3',
	description: 'Address of the voice of a second person in the picture',
};

export const callbackUrl: INodeProperties = {
	displayName: 'Callback URL',
	name: 'callbackUrl',
	type: 'string',
	default: '',
	placeholder: 'e.g. {{ $execution.resumeUrl }}',
	description:
		'Gets a signed POST when the job has ended. With Wait for the Video turned off and a Wait node that resumes on webhook call, use {{ $execution.resumeUrl }}.',
};

export const downloadVideo: INodeProperties = {
	displayName: 'Download Video',
	name: 'downloadVideo',
	type: 'boolean',
	default: true,
	description:
		'Whether to put the video into the output. Turned off, the output has only its address video_url.',
};

export const faceBox: INodeProperties = {
	displayName: 'Face Box',
	name: 'faceBox',
	type: 'string',
	default: '',
	placeholder: 'e.g. 10,20,200,260',
	description: 'The face to animate: left, top, right, bottom in pixels of the picture',
};

export const faceIndex: INodeProperties = {
	displayName: 'Face Index',
	name: 'faceIndex',
	type: 'number',
	typeOptions: { minValue: 0 },
	default: 0,
	description: 'Which of several faces to animate, counted from the left, beginning with 0',
};

export const fileName: INodeProperties = {
	displayName: 'File Name',
	name: 'fileName',
	type: 'string',
	default: '',
	placeholder: 'e.g. welcome.mp4',
	description: 'Name of the video. Without it: the name of the picture with -lipsync.mp4.',
};

export const idempotencyKey: INodeProperties = {
	displayName: 'Idempotency Key',
	name: 'idempotencyKey',
	type: 'string',
	default: '',
	placeholder: 'e.g. order-1234',
	description:
		'The same key gives the same job instead of a second one. Without it, execution, node and item make the key, so that Retry On Fail does not render twice.',
};

export const seed: INodeProperties = {
	displayName: 'Seed',
	name: 'seed',
	type: 'string',
	default: '',
	placeholder: 'e.g. 42',
	description: 'The same seed and the same inputs give the same video',
};

export const timeout: INodeProperties = {
	displayName: 'Timeout (Minutes)',
	name: 'timeoutMinutes',
	type: 'number',
	typeOptions: { minValue: 0.01 },
	default: 120,
	description:
		'How long upload, queue, rendering and download of each video may take together. After that the node fails, but the job goes on and can be downloaded later.',
};

/** The field for the address of an input that the server fetches itself. */
export function url(name: 'image' | 'audio', title: string, file: string): INodeProperties {
	return {
		displayName: `${title} URL`,
		name: `${name}Url`,
		type: 'string',
		required: true,
		default: '',
		placeholder: `e.g. https://example.com/${file}`,
	};
}
