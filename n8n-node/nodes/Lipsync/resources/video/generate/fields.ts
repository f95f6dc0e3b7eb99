/**
 * The fields of Generate: the two inputs first, then the engine, then collections of things that few people need.
 *
 * An AI agent cannot hand files to a tool. The tool variant (`@tool`) therefore shows URL fields only.
 */
import type { INodeProperties } from 'n8n-workflow';

import { VERSION_2 } from '../../../operation';
import { simplifyField } from '../output';
import { captionFields } from './captions';

const IS_TOOL = { '@tool': [true] };
/** Engines that make no use of a prompt, a preset or a resolution. */
const PLAIN_ENGINES = ['preview', 'sadtalker'];
const shown = { show: { ...VERSION_2 } };

export const fields: INodeProperties[] = [
	...inputFields('image', 'Image', 'picture', 'portrait.png'),
	...inputFields('audio', 'Audio', 'recording', 'speech.mp3'),
	{
		displayName: 'Engine',
		name: 'engine',
		type: 'resourceLocator',
		default: { mode: 'id', value: 'auto' },
		description:
			'The program that makes the video. "auto" takes the best one that the server can run.',
		displayOptions: shown,
		modes: [
			{
				displayName: 'From List',
				name: 'list',
				type: 'list',
				placeholder: 'Choose an engine...',
				typeOptions: { searchListMethod: 'searchEngines', searchable: true },
			},
			{
				displayName: 'By Name',
				name: 'id',
				type: 'string',
				placeholder: 'e.g. auto',
			},
		],
	},
	{
		displayName: 'Prompt and Quality',
		name: 'scene',
		type: 'collection',
		placeholder: 'Add Field',
		default: {},
		displayOptions: { show: { ...VERSION_2 }, hide: { engine: PLAIN_ENGINES } },
		options: [
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
				description:
					'How much time the engine spends: Quality takes about ten times as long as Fast',
			},
			{
				displayName: 'Prompt',
				name: 'prompt',
				type: 'string',
				typeOptions: { rows: 2 },
				default: '',
				placeholder: 'e.g. A woman speaks to the camera in a bright room',
				description: 'The scene and how the person acts, in English',
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
				description: 'Size of the video. The shape of the picture decides width and height.',
			},
			{
				displayName: 'Second Recording Field',
				name: 'secondAudioField',
				type: 'string',
				default: '',
				placeholder: 'e.g. audio2',
				description: 'Name of the input field with the voice of a second person in the picture',
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
	captionFields,
	{
		displayName: 'Engine Options',
		name: 'engineOptions',
		type: 'fixedCollection',
		typeOptions: { multipleValues: true },
		placeholder: 'Add Option',
		default: {},
		displayOptions: shown,
		description: 'Options that only the chosen engine has. The server lists them.',
		options: [
			{
				displayName: 'Option',
				name: 'option',
				values: [
					{
						displayName: 'Option Name or ID',
						name: 'name',
						type: 'options',
						typeOptions: {
							loadOptionsMethod: 'getEngineOptions',
							loadOptionsDependsOn: ['engine.value'],
						},
						default: '',
						description:
							'Choose from the list, or specify an ID using an <a href="https://docs.n8n.io/code/expressions/">expression</a>',
					},
					{
						displayName: 'Value',
						name: 'value',
						type: 'string',
						default: '',
						placeholder: 'e.g. 0.5',
						description: 'A number, true or false, a word, or a list in JSON such as [0, 10, 0]',
					},
				],
			},
		],
	},
	{
		displayName: 'Options',
		name: 'options',
		type: 'collection',
		placeholder: 'Add Option',
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
					'Gets a signed POST when the job has ended. With Wait for the Video turned off and a Wait node that resumes on webhook call, use {{ $execution.resumeUrl }}.',
			},
			{
				displayName: 'Download Video',
				name: 'downloadVideo',
				type: 'boolean',
				default: true,
				description:
					'Whether to put the video into the output. Turned off, the output has only its address video_url.',
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
				displayName: 'File Name',
				name: 'fileName',
				type: 'string',
				default: '',
				placeholder: 'e.g. welcome.mp4',
				description: 'Name of the video. Without it: the name of the picture with -lipsync.mp4.',
			},
			{
				displayName: 'Idempotency Key',
				name: 'idempotencyKey',
				type: 'string',
				default: '',
				placeholder: 'e.g. order-1234',
				description:
					'The same key gives the same job instead of a second one. Without it, execution, node and item make the key, so that Retry On Fail does not render twice.',
			},
			{
				displayName: 'Keep on Server',
				name: 'keepOnServer',
				type: 'boolean',
				default: false,
				description:
					'Whether the server keeps the video until it expires, instead of freeing the space soon after the download',
			},
			{
				displayName: 'Put Output File in Field',
				name: 'outputField',
				type: 'string',
				default: 'data',
				hint: 'The name of the output binary field to put the video in',
			},
			{
				displayName: 'Seed',
				name: 'seed',
				type: 'string',
				default: '',
				placeholder: 'e.g. 42',
				description: 'The same seed and the same inputs give the same video',
			},
			{
				displayName: 'Timeout (Minutes)',
				name: 'timeoutMinutes',
				type: 'number',
				typeOptions: { minValue: 0.01 },
				default: 120,
				description:
					'How long upload, queue, rendering and download of each video may take together. After that the node fails, but the job goes on and can be downloaded later.',
			},
			{
				displayName: 'Wait for the Video',
				name: 'wait',
				type: 'boolean',
				default: true,
				description:
					'Whether to wait until the video is finished. Turned off, the output has only the job ID, for Get Status and Download later.',
			},
		],
	},
	simplifyField,
];

function inputFields(
	name: 'image' | 'audio',
	title: string,
	noun: string,
	file: string,
): INodeProperties[] {
	const url: INodeProperties = {
		displayName: `${title} URL`,
		name: `${name}Url`,
		type: 'string',
		required: true,
		default: '',
		placeholder: `e.g. https://example.com/${file}`,
		description: `Address of the ${noun}. The server fetches it, so the server must be able to reach it.`,
	};
	return [
		{
			displayName: `${title} From`,
			name: `${name}Input`,
			type: 'options',
			options: [
				{
					name: 'File of the Input',
					value: 'binary',
					description: `A ${noun} that an earlier node read, downloaded or made`,
				},
				{ name: 'URL', value: 'url', description: 'An address that the server fetches' },
			],
			default: 'binary',
			displayOptions: { show: { ...VERSION_2 }, hide: IS_TOOL },
		},
		{
			displayName: `${title} Field`,
			name: `${name}Field`,
			type: 'string',
			default: '',
			placeholder: 'e.g. data',
			hint: `Leave empty if the item has one ${noun}. If it has several, write the name of the field. For a ${noun} of another node: {{ $('Name of that node').item.binary.data }}`,
			displayOptions: { show: { ...VERSION_2, [`${name}Input`]: ['binary'] }, hide: IS_TOOL },
		},
		{
			...url,
			displayOptions: { show: { ...VERSION_2, [`${name}Input`]: ['url'] }, hide: IS_TOOL },
		},
		{ ...url, displayOptions: { show: { ...VERSION_2, ...IS_TOOL } } },
	];
}
