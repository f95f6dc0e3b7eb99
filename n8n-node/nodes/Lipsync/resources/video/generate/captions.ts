/** The collection Captions: the spoken words, and how the video shows them. Most people never open it. */
import type { IDataObject, INodeProperties } from 'n8n-workflow';

import { text } from '../../../items';
import { VERSION_2 } from '../../../operation';

export const captionFields: INodeProperties = {
	displayName: 'Captions',
	name: 'captions',
	type: 'collection',
	placeholder: 'Add Field',
	default: {},
	displayOptions: { show: { ...VERSION_2 } },
	options: [
		{
			displayName: 'Language',
			name: 'language',
			type: 'string',
			default: '',
			placeholder: 'e.g. pt-BR',
			description: 'Language of the words. Without it the server finds it by listening.',
		},
		{
			displayName: 'Put SRT File in Field',
			name: 'srtField',
			type: 'string',
			default: '',
			placeholder: 'e.g. captions',
			hint: 'The name of the output binary field to put the captions in, for example for YouTube',
		},
		{
			displayName: 'Show As',
			name: 'show',
			type: 'options',
			options: [
				{
					name: 'Drawn Into the Picture: Few Large Words',
					value: 'words',
					description: 'For vertical video; the spoken word is highlighted',
				},
				{ name: 'Drawn Into the Picture: On a Dark Box', value: 'box' },
				{ name: 'Drawn Into the Picture: Outlined', value: 'plain' },
				{
					name: 'Not at All',
					value: 'off',
					description: 'No captions, although the words are known',
				},
				{
					name: 'Text Track',
					value: 'track',
					description: 'The viewer switches the captions on or off in the player',
				},
			],
			default: 'track',
			description: 'How the video shows the captions',
		},
		{
			displayName: 'What Is Said',
			name: 'script',
			type: 'string',
			typeOptions: { rows: 4 },
			default: '',
			placeholder: 'e.g. {{ $json.text }}',
			description:
				'The spoken words, for example the text that an earlier node turned into speech. Each word is timed by the recording. Empty: the spoken text where Audio From is Text; otherwise the server recognises the words if Show As is set.',
		},
	],
};

/** The server's form fields for `captions`, the value of the collection. */
export function captionTexts(captions: IDataObject): Record<string, string> {
	const show = text(captions.show);
	const isDrawn = ['plain', 'box', 'words'].includes(show);
	return {
		script: text(captions.script),
		captions: isDrawn ? 'burned' : show,
		caption_style: isDrawn ? show : '',
		language: text(captions.language),
	};
}
