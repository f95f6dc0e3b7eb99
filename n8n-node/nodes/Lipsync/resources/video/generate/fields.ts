/**
 * The fields of Generate: first the two inputs, then the engine, then collections of fields that few people need.
 *
 * An AI agent cannot hand files to a tool. The tool variant (`@tool`) therefore shows URL fields only.
 */
import type { INodeProperties } from 'n8n-workflow';

import { VERSION_2 } from '../../../operation';
import { keepOnServerField, outputField, simplifyField } from '../output';
import { captionFields } from './captions';
import { checkFields } from './check';
import * as common from './commonFields';
import { formatFields } from './format';
import { markingFields } from './marking';
import { fromText, speechFields } from './speech';

const IS_TOOL = { '@tool': [true] };
const shown = { show: { ...VERSION_2 } };

export const fields: INodeProperties[] = [
	...inputFields('image', 'Image', 'picture', 'portrait.png'),
	...inputFields('audio', 'Audio', 'recording', 'speech.mp3'),
	...speechFields,
	{
		displayName: 'Engine',
		name: 'engine',
		type: 'resourceLocator',
		default: { mode: 'id', value: 'auto' },
		description:
			'The program that makes the video. "auto" chooses the best one that the server can run.',
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
		description:
			'Wishes that not every engine has. An engine that ignores one says so in the warnings of the video.',
		displayOptions: shown,
		options: [
			common.preset,
			common.prompt,
			common.resolution,
			common.secondRecordingField,
			common.secondRecordingUrl,
		],
	},
	captionFields,
	formatFields,
	checkFields,
	markingFields,
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
			common.callbackUrl,
			common.downloadVideo,
			common.faceBox,
			common.faceIndex,
			common.fileName,
			common.idempotencyKey,
			keepOnServerField,
			{
				displayName: 'Park While Waiting',
				name: 'park',
				type: 'boolean',
				default: false,
				description:
					'Whether n8n parks the execution until the server calls, so that a long wait costs nothing. For one item at a time; needs On Error set to Continue, and a server that can reach the webhook address of n8n.',
			},
			outputField,
			common.seed,
			common.timeout,
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
		...common.url(name, title, file),
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
				...(name === 'audio' ? [fromText] : []),
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
		{
			...url,
			// An agent may give words in place of a recording. The editor marks a node with an empty required field as faulty.
			required: name === 'image',
			displayOptions: { show: { ...VERSION_2, ...IS_TOOL } },
		},
	];
}
