/** The fields of Generate in version 1 of the node, for workflows that were made with it. */
import type { INodeProperties } from 'n8n-workflow';

import { VERSION_1 } from '../../../operation';
import { outputField } from '../output';

const shown = { show: { ...VERSION_1 } };

export const fieldsVersion1: INodeProperties[] = [
	...inputFields('image', 'Image', 'picture', 'portrait.png'),
	...inputFields('audio', 'Audio', 'recording', 'speech.mp3'),
	{
		displayName: 'Prompt',
		name: 'prompt',
		type: 'string',
		typeOptions: { rows: 2 },
		default: '',
		placeholder: 'e.g. A woman speaks to the camera in a bright room',
		description: 'The scene and how the person acts. Only the InfiniteTalk engine uses it.',
		displayOptions: shown,
	},
	{
		displayName: 'Engine Name or ID',
		name: 'engine',
		type: 'options',
		typeOptions: { loadOptionsMethod: 'getEngines' },
		default: 'auto',
		description:
			'The program that makes the video; Auto takes the best one that the server can run. Choose from the list, or specify an ID using an <a href="https://docs.n8n.io/code/expressions/">expression</a>.',
		displayOptions: shown,
	},
	{
		displayName: 'Resolution',
		name: 'resolution',
		type: 'options',
		options: [
			{ name: '480p', value: '480p' },
			{ name: '720p', value: '720p' },
			{ name: 'Default of the Server', value: '' },
		],
		default: '',
		description: 'Size of the video, for engines that offer a choice',
		displayOptions: shown,
	},
	{
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
		description: 'How much time goes into the picture, for engines that offer a choice',
		displayOptions: shown,
	},
	{
		displayName: 'Seed',
		name: 'seed',
		type: 'string',
		default: '',
		placeholder: 'e.g. 42',
		description:
			'The same seed and the same inputs give the same video. Leave empty for the default of the server.',
		displayOptions: shown,
	},
	{
		displayName: 'File Name',
		name: 'fileName',
		type: 'string',
		default: '',
		placeholder: 'e.g. welcome.mp4',
		description: 'Name of the video. Left empty it is the name of the picture with -lipsync.mp4.',
		displayOptions: shown,
	},
	{ ...outputField, displayOptions: shown },
	{
		displayName: 'Wait for Completion',
		name: 'wait',
		type: 'options',
		noDataExpression: true,
		options: [
			{
				name: 'Poll',
				value: 'poll',
				description: 'Ask the server until the video is finished, then download it',
			},
			{
				name: "Don't Wait",
				value: 'none',
				description: 'Give the job ID at once, for Get Status and Download later',
			},
		],
		default: 'poll',
		displayOptions: shown,
	},
	{
		displayName: 'Timeout (Minutes)',
		name: 'timeoutMinutes',
		type: 'number',
		typeOptions: { minValue: 0.01 },
		default: 120,
		description:
			'How long upload, queue, rendering and download of each video may take together. After that the node fails, but the job goes on and can be downloaded later.',
		displayOptions: { show: { ...VERSION_1, wait: ['poll'] } },
	},
	{
		displayName: 'Additional Fields',
		name: 'additionalFields',
		type: 'collection',
		placeholder: 'Add Field',
		default: {},
		displayOptions: shown,
		options: [
			{
				displayName: 'Callback URL',
				name: 'callbackUrl',
				type: 'string',
				default: '',
				placeholder: 'e.g. {{ $execution.resumeUrl }}',
				description:
					"Gets a signed POST when the job has ended. With Don't Wait and a Wait node that resumes on webhook call, use {{ $execution.resumeUrl }}.",
			},
			{
				displayName: 'Download Video',
				name: 'downloadVideo',
				type: 'boolean',
				default: true,
				description:
					'Whether to put the video into the output. Turned off, the output has only video_url, which needs the API token. Agents always get the link.',
			},
			{
				displayName: 'Engine Options',
				name: 'engineOptions',
				type: 'json',
				default: '{}',
				placeholder: 'e.g. {"head_motion": 0.5}',
				description:
					'Options of one engine, as a JSON object. Server > Get Info without Simplify lists them.',
			},
			{
				displayName: 'Face Box',
				name: 'faceBox',
				type: 'string',
				default: '',
				placeholder: 'e.g. 10,20,200,260',
				description: 'The face to animate: left, top, right, bottom in pixels of the picture',
			},
			{
				displayName: 'Face Index',
				name: 'faceIndex',
				type: 'number',
				typeOptions: { minValue: 0 },
				default: 0,
				description: 'Which of several faces to animate, counted from the left, beginning with 0',
			},
			{
				displayName: 'Idempotency Key',
				name: 'idempotencyKey',
				type: 'string',
				default: '',
				placeholder: 'e.g. order-1234',
				description:
					'The same key gives the same job instead of a second one. Left empty, it is made from execution, node and item, so that Retry On Fail does not render twice.',
			},
			{
				displayName: 'Mark as Collected',
				name: 'markCollected',
				type: 'boolean',
				default: true,
				description:
					'Whether to tell the server after the download that it may free the space, instead of keeping the video until it expires',
			},
			{
				displayName: 'Second Recording Field',
				name: 'secondAudioField',
				type: 'string',
				default: '',
				placeholder: 'e.g. audio2',
				description: 'Input binary field with the voice of a second person in the picture',
			},
			{
				displayName: 'Second Recording URL',
				name: 'secondAudioUrl',
				type: 'string',
				default: '',
				placeholder: 'e.g. https://example.com/second.mp3',
				description: 'Address of the voice of a second person in the picture',
			},
		],
	},
];

function inputFields(
	name: 'image' | 'audio',
	title: string,
	noun: string,
	file: string,
): INodeProperties[] {
	return [
		{
			displayName: `${title} Input`,
			name: `${name}Input`,
			type: 'options',
			options: [
				{ name: 'Binary Field', value: 'binary' },
				{ name: 'URL', value: 'url' },
			],
			default: 'binary',
			description: `Where the ${noun} comes from`,
			displayOptions: shown,
		},
		{
			displayName: `${title} Field`,
			name: `${name}Field`,
			type: 'string',
			required: true,
			default: name,
			hint: `The name of the input binary field with the ${noun}`,
			displayOptions: { show: { ...VERSION_1, [`${name}Input`]: ['binary'] } },
		},
		{
			displayName: `${title} URL`,
			name: `${name}Url`,
			type: 'string',
			required: true,
			default: '',
			placeholder: `e.g. https://example.com/${file}`,
			description: `Address of the ${noun}; the server fetches it, so it must be reachable from there`,
			displayOptions: { show: { ...VERSION_1, [`${name}Input`]: ['url'] } },
		},
	];
}
