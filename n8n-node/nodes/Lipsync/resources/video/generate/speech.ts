/** The fields of speech from text: the server speaks words in place of a recording. */
import type { INodeProperties, INodePropertyOptions } from 'n8n-workflow';

import { VERSION_2 } from '../../../operation';

/** The choice of Audio From that shows these fields. */
export const fromText: INodePropertyOptions = {
	name: 'Text',
	value: 'text',
	description: 'Words that the server speaks; no text-to-speech node is needed',
};

const IS_TOOL = { '@tool': [true] };

function shownTwice(field: INodeProperties): INodeProperties[] {
	return [
		{
			...field,
			displayOptions: { show: { ...VERSION_2, audioInput: ['text'] }, hide: IS_TOOL },
		},
		{ ...field, required: false, displayOptions: { show: { ...VERSION_2, ...IS_TOOL } } },
	];
}

export const speechFields: INodeProperties[] = [
	...shownTwice({
		displayName: 'Text',
		name: 'speechText',
		type: 'string',
		typeOptions: { rows: 4 },
		required: true,
		default: '',
		placeholder: 'e.g. {{ $json.text }}',
		description:
			'The words to speak, up to 20,000 characters. The captions show them. An agent gives this or Audio URL.',
	}),
	...shownTwice({
		displayName: 'Voice',
		name: 'speechVoice',
		type: 'string',
		default: '',
		placeholder: 'e.g. pf_dora',
		description:
			'A voice of Kokoro, such as af_heart (English) or pf_dora (Brazilian Portuguese). Empty: the first voice of the language. Without the model files of Kokoro the voice sounds robotic, and a warning names the command.',
	}),
	...shownTwice({
		displayName: 'Language',
		name: 'speechLanguage',
		type: 'string',
		default: '',
		placeholder: 'e.g. pt-BR',
		description: 'Language of the text. Empty: the server finds it by the words.',
	}),
];
