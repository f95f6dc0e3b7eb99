/** The fields of Generate in version 1 of the node, for workflows that were made with it. */
import type { INodeProperties } from 'n8n-workflow';

import { VERSION_1 } from '../../../operation';
import { outputField } from '../output';
import * as common from './commonFields';

const shown = { show: { ...VERSION_1 } };

export const fieldsVersion1: INodeProperties[] = [
	...inputFields('image', 'Image', 'picture', 'portrait.png'),
	...inputFields('audio', 'Audio', 'recording', 'speech.mp3'),
	{
		...common.prompt,
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
			'The program that makes the video; Auto chooses the best one that the server can run. Choose from the list, or specify an ID using an <a href="https://docs.n8n.io/code/expressions/">expression</a>.',
		displayOptions: shown,
	},
	{
		...common.resolution,
		description: 'Size of the video, for engines that offer a choice',
		displayOptions: shown,
	},
	{
		...common.preset,
		description: 'How much time goes into the picture, for engines that offer a choice',
		displayOptions: shown,
	},
	{
		...common.seed,
		description:
			'The same seed and the same inputs give the same video. Leave empty for the default of the server.',
		displayOptions: shown,
	},
	{
		...common.fileName,
		description: 'Name of the video. Left empty it is the name of the picture with -lipsync.mp4.',
		displayOptions: shown,
	},
	{ ...outputField, required: true, displayOptions: shown },
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
		...common.timeout,
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
				...common.callbackUrl,
				description:
					"Gets a signed POST when the job has ended. With Don't Wait and a Wait node that resumes on webhook call, use {{ $execution.resumeUrl }}.",
			},
			{
				...common.downloadVideo,
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
			common.faceBox,
			common.faceIndex,
			{
				...common.idempotencyKey,
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
				...common.secondRecordingField,
				description: 'Input binary field with the voice of a second person in the picture',
			},
			common.secondRecordingUrl,
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
			...common.url(name, title, file),
			description: `Address of the ${noun}; the server fetches it, so it must be reachable from there`,
			displayOptions: { show: { ...VERSION_1, [`${name}Input`]: ['url'] } },
		},
	];
}
