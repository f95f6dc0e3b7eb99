/** The Test button of the Lipsync API credential. It calls /v1/me and shows the server's own error message. */
import type {
	ICredentialTestFunctions,
	ICredentialsDecrypted,
	IDataObject,
	IHttpRequestOptions,
	INodeCredentialTestResult,
} from 'n8n-workflow';

import { LipsyncApi } from '../../../credentials/LipsyncApi.credentials';
import { parsed } from '../api/client';
import { advice, connectionCode, messageOf } from '../api/errors';
import type { Problem } from '../api/types';

const TIMEOUT_MS = 30_000;

interface Answer {
	statusCode: number;
	headers: IDataObject;
	body: unknown;
}

export async function testServer(
	this: ICredentialTestFunctions,
	credential: ICredentialsDecrypted,
): Promise<INodeCredentialTestResult> {
	const { helpers } = this;
	const data = credential.data ?? {};
	const typed = String(data.baseUrl ?? '').trim();
	if (typed.startsWith('=') || typed.includes('{{')) {
		return wrong(
			'The Base URL is an expression: it has a value only while a workflow runs. To try it, run Server > Get Info in the workflow.',
		);
	}
	let signed: IHttpRequestOptions;
	try {
		signed = await new LipsyncApi().authenticate(data, { url: '/v1/me', method: 'GET' });
	} catch (error) {
		return wrong(messageOf(error));
	}
	const address = String(signed.baseURL);
	try {
		const answer = (await helpers.request({
			method: 'GET',
			uri: `${address}/v1/me`,
			headers: { Accept: 'application/json', ...signed.headers },
			rejectUnauthorized: data.ignoreSslIssues !== true,
			followRedirect: false,
			resolveWithFullResponse: true,
			simple: false,
			timeout: TIMEOUT_MS,
		})) as Answer;
		return judge(answer, address);
	} catch (error) {
		const code = connectionCode(error);
		const secure = /SELF_SIGNED|CERT|UNABLE_TO|ALTNAME/.test(`${code} ${messageOf(error)}`);
		return wrong(
			secure
				? `The certificate of ${address} is not trusted. Turn on Ignore SSL Issues if the server uses a self-signed one (${code}).`
				: `Nothing answers at ${address}. ${advice(address)} (${code || messageOf(error)}).`,
		);
	}
}

function judge({ statusCode, headers, body }: Answer, address: string): INodeCredentialTestResult {
	const content = parsed(body) as Partial<Problem> & { engine?: string; version?: string };
	const said = content instanceof Object ? content : {};
	if (statusCode === 200 && typeof said.engine === 'string') {
		return {
			status: 'OK',
			message: `Connected to Lipsync ${said.version} with engine ${said.engine}`,
		};
	}
	if (typeof said.detail === 'string') {
		const hint =
			statusCode === 401
				? ' Paste the token that the server prints when it starts ("token …"), or one of its LIPSYNC_TOKENS.'
				: '';
		return wrong(`The server says: ${said.detail}${hint}`);
	}
	if (statusCode >= 300 && statusCode < 400) {
		return wrong(
			`${address} sends n8n on to ${String(headers.location)}. Set the Base URL to the final address; a login page in front needs Proxy Headers.`,
		);
	}
	if (statusCode >= 500) {
		return wrong(
			`A proxy or tunnel at ${address} answers (${statusCode}), but no Lipsync server behind it. Check that the server runs.`,
		);
	}
	return wrong(
		`There is no Lipsync server at ${address} (it answered ${statusCode}). Check the address and its path prefix.`,
	);
}

function wrong(message: string): INodeCredentialTestResult {
	return { status: 'Error', message };
}
